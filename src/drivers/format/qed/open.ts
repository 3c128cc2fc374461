import { blockError, prefixed } from '../../../errors/index.js'
import { readPadded } from '../../../formatkit/index.js'
import type { OpenContext } from '../../../graph/index.js'
import { takeOptions } from '../../../options/index.js'
import { checkImage } from './check.js'
import { checkHeader, Feature, headerBytes, maxBackingNameBytes, QedHeader } from './header.js'
import { QedImage } from './image.js'
import { qedOptions } from './options.js'
import { l1BytesOf, QedTables } from './tables.js'

/**
 * Opens an image: header and first-level table. One that another program did not close is repaired
 * before it is written to.
 *
 * @throws BlockError with QEMU's text
 */
export async function open(context: OpenContext): Promise<QedImage> {
  const { file, node, options, flags } = context
  takeOptions(options, qedOptions)
  const header = new QedHeader(new Uint8Array(headerBytes))
  await readPadded(file.node, 0, header.bytes)
  checkHeader(header, file.node.length)
  const backingFile = header.hasBackingFile ? await readBackingName(context, header) : undefined
  const l1 = new Uint8Array(l1BytesOf(header, header.size))
  await readPadded(file.node, header.l1Offset, l1)
  const tables = new QedTables(file, header, l1)
  const write = !node.readOnly && flags.write && !flags.inactive
  if (write && header.hasUnknownAutoclear) {
    header.clearAutoclear()
    try {
      await tables.writeHeader()
      await file.node.flush()
    } catch (error) {
      throw prefixed(error, 'Failed to update header: ')
    }
  }
  if (write && !flags.check && header.needsCheck) {
    const result = await checkImage(tables, true)
    if (result.checkErrors > 0) {
      throw blockError('EIO', 'Image corrupted')
    }
  }
  const backingFormat =
    backingFile !== undefined && (header.features & Feature.backingIsRaw) !== 0 ? 'raw' : undefined
  return new QedImage(node, { tables, backingFile, backingFormat })
}

async function readBackingName({ file }: OpenContext, header: QedHeader): Promise<string | undefined> {
  const { backingOffset, backingBytes } = header
  if (backingBytes > maxBackingNameBytes) {
    throw blockError('EINVAL', 'Failed to read backing filename')
  }
  const bytes = new Uint8Array(backingBytes)
  await readPadded(file.node, backingOffset, bytes)
  const end = bytes.indexOf(0)
  const name = new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end))
  return name === '' ? undefined : name
}
