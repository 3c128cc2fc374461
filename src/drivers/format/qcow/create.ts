import { alignUp } from '../../../bytes/index.js'
import { blockError } from '../../../errors/index.js'
import { encryptChoice, imagePassword } from '../../../formatkit/crypto/index.js'
import type { BlockNode, CreateContext } from '../../../graph/index.js'
import { maxLength } from '../../../io/index.js'
import type { OptionsOf } from '../../../options/index.js'
import { headerBytes, l1BytesOf, makeHeader, maxBackingNameBytes, maxL1Bytes, sectorBytes } from './header.js'
import type { qcowCreateOptions } from './options.js'

/** Bytes written at a time. */
const pieceBytes = 1 << 20

/**
 * Creates an image with the layout QEMU gives it: small clusters on top of a backing file, so that few
 * of its bytes are copied.
 *
 * @throws BlockError with QEMU's text
 */
export async function create(context: CreateContext): Promise<void> {
  const given: OptionsOf<typeof qcowCreateOptions> = context.options
  const size = alignUp(given.size ?? 0, sectorBytes)
  const encryption = encryptChoice(context.options)
  if (size === 0) {
    throw blockError('EINVAL', 'Image size is too small, cannot be zero length')
  }
  if (encryption?.format === 'luks') {
    throw blockError('EINVAL', 'Unsupported encryption format')
  }
  if (encryption !== undefined) {
    imagePassword(context.layer, encryption.keySecret).fill(0)
  }
  // QEMU leaves out the name that stood for a folder once.
  const backing = given.backing_file === 'fat:' ? undefined : given.backing_file
  const name = new TextEncoder().encode(backing)
  if (name.length > maxBackingNameBytes) {
    throw blockError('EINVAL', 'Backing file name too long')
  }
  const header = {
    size,
    ...(given.backing_file === undefined ? { clusterBits: 12, l2Bits: 9 } : { clusterBits: 9, l2Bits: 12 }),
    encrypted: encryption !== undefined,
    l1Offset: alignUp(headerBytes + name.length, 8),
    backingOffset: backing === undefined ? 0 : headerBytes,
    backingBytes: name.length,
  }
  if (size > maxLength || l1BytesOf(header) > maxL1Bytes) {
    throw blockError('EFBIG', 'Image too large')
  }
  const file = await context.createFile(0)
  // QEMU clears whole sectors.
  const end = header.l1Offset + alignUp(l1BytesOf(header), sectorBytes)
  const zeroes = new Uint8Array(Math.min(pieceBytes, end))
  for (let at = headerBytes; at < end; at += zeroes.length) {
    await write(file, at, zeroes.subarray(0, Math.min(zeroes.length, end - at)))
  }
  await write(file, headerBytes, name)
  // Last: until then it is no image.
  await write(file, 0, makeHeader(header))
}

async function write(file: BlockNode, offset: number, bytes: Uint8Array): Promise<void> {
  const wait = file.write(offset, bytes.length, bytes, 0, 0)
  if (wait !== undefined) {
    await wait
  }
}
