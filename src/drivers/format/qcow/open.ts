import { blockError, ioError } from '../../../errors/index.js'
import { checkEncryptFormat, imagePassword } from '../../../formatkit/crypto/index.js'
import { readPadded } from '../../../formatkit/index.js'
import type { OpenContext } from '../../../graph/index.js'
import { maxLength } from '../../../io/index.js'
import { takeOptions } from '../../../options/index.js'
import { QcowCrypto } from './crypto.js'
import {
  headerBytes,
  l1BytesOf,
  maxBackingNameBytes,
  parseHeader,
  type QcowHeader,
  sectorBytes,
} from './header.js'
import { QcowImage } from './image.js'
import { qcowOptions } from './options.js'
import { QcowTables } from './tables.js'

/**
 * Opens an image: header and first-level table.
 *
 * @throws BlockError with QEMU's text
 */
export async function open(context: OpenContext): Promise<QcowImage> {
  const { file, node, options } = context
  const given = takeOptions(options, qcowOptions)
  const head = new Uint8Array(headerBytes)
  await readPadded(file.node, 0, head)
  const header = parseHeader(head)
  checkEncryptFormat(given['encrypt.format'], header.encrypted ? 'aes' : undefined)
  const crypto = header.encrypted ? openCrypto(context, given['encrypt.key-secret']) : undefined
  try {
    const l1 = new Uint8Array(l1BytesOf(header))
    if (header.l1Offset > maxLength - l1.length) {
      throw ioError('EIO')
    }
    await readPadded(file.node, header.l1Offset, l1)
    return new QcowImage(node, {
      tables: new QcowTables(file, header, l1),
      length: Math.floor(header.size / sectorBytes) * sectorBytes,
      backingFile: await backingFileOf(context, header),
      crypto,
    })
  } catch (error) {
    crypto?.dispose()
    throw error
  }
}

function openCrypto({ host, node, layer, flags }: OpenContext, keySecret: string | undefined): QcowCrypto {
  const crypto = new QcowCrypto(host, node)
  if (!flags.noIo) {
    const password = imagePassword(layer, keySecret)
    try {
      crypto.setKey(password)
    } finally {
      password.fill(0)
    }
  }
  return crypto
}

async function backingFileOf({ file }: OpenContext, header: QcowHeader): Promise<string | undefined> {
  const { backingOffset, backingBytes } = header
  if (backingOffset === 0) {
    return undefined
  }
  if (backingBytes > maxBackingNameBytes) {
    throw blockError('EINVAL', 'Backing file name too long')
  }
  if (backingOffset > maxLength - backingBytes) {
    throw ioError('EIO')
  }
  const bytes = new Uint8Array(backingBytes)
  await readPadded(file.node, backingOffset, bytes)
  const end = bytes.indexOf(0)
  const name = new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end))
  return name === '' ? undefined : name
}
