import { blockError, isBlockError } from '../../../errors/index.js'
import { type BlockChild, type TruncateOptions, truncateNode } from '../../../graph/index.js'
import { maxTableEntries } from './block-table.js'
import type { DynamicHeader } from './dynamic-header.js'
import { type Footer, footerBytes } from './footer.js'
import { largestGeometry, maxSectors, roundedSize, sectorBytes } from './geometry.js'
import type { BlockContext } from './space.js'

/** A footer for another length in bytes; one that no geometry can say is recorded as with `force_size`. */
function resizedFooter(footer: Footer, length: number): Footer {
  const next = footer.copy()
  const { geometry, total } = roundedSize(length, false)
  if (total * sectorBytes === length) {
    next.resize(length, geometry)
  } else {
    next.creator = 'qem2'
    next.resize(length, largestGeometry)
  }
  return next.seal()
}

function checkRequest(old: number, length: number, how: TruncateOptions): void {
  if (how.preallocation !== 'off') {
    throw blockError('ENOTSUP', `Unsupported preallocation mode '${how.preallocation}'`)
  }
  if (length < old) {
    throw blockError('ENOTSUP', 'Shrinking of VHD images is not supported')
  }
  if (length / sectorBytes > maxSectors) {
    throw blockError('EFBIG', 'Disk size is too large, max size is 2040 GiB')
  }
}

/**
 * Makes a fixed disk longer. The new footer is durable before the old one becomes guest data (zeroes),
 * so that a crash leaves the old length or the new one.
 */
export async function growFixed(
  file: BlockChild,
  footer: Footer,
  old: number,
  length: number,
  how: TruncateOptions,
): Promise<Footer> {
  checkRequest(old, length, how)
  const next = resizedFooter(footer, length)
  const { node } = file
  try {
    await node.write(length, footerBytes, next.bytes, 0, 0)
    await node.flush()
    const zeroes = Math.min(footerBytes, length - old)
    if (zeroes > 0) {
      await node.writeZeroes(old, zeroes, 0)
    }
  } catch (error) {
    await shrinkBack(file, footer, old)
    throw error
  }
  return next
}

/** Makes a file that could not grow end with the old footer again, if it can: with two the old one would show. */
async function shrinkBack({ node }: BlockChild, footer: Footer, old: number): Promise<void> {
  try {
    await node.write(old, footerBytes, footer.bytes, 0, 0)
    await truncateNode(node, old + footerBytes, { exact: true, preallocation: 'off', zero: false })
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
  }
}

/**
 * Makes a dynamic disk longer. A table that has to grow is written anew at the end of the file; the
 * header points to it once it is durable, and the footers follow. The old table's place is lost.
 */
export async function growDynamic(
  blocks: BlockContext & { readonly header: DynamicHeader },
  old: number,
  length: number,
  how: TruncateOptions,
): Promise<Footer> {
  checkRequest(old, length, how)
  const { file, header, table, space, shape } = blocks
  const { node } = file
  const entries = Math.ceil(length / shape.blockSize)
  if (entries > maxTableEntries) {
    throw blockError('EFBIG', `Max Table Entries too large (${entries})`)
  }
  const last = Math.ceil(old / shape.blockSize) - 1
  const block = last < 0 ? undefined : table.blockOffset(last)
  const inside = old - last * shape.blockSize
  if (block !== undefined && inside < shape.blockSize) {
    // Whatever another program has left behind the end of the disk is not to be shown.
    await node.writeZeroes(block + shape.bitmapBytes + inside, shape.blockSize - inside, 0)
  }
  if (entries > header.maxEntries) {
    const bytes = new Uint8Array(Math.ceil((entries * 4) / sectorBytes) * sectorBytes).fill(0xff)
    bytes.set(table.bytes.subarray(0, header.maxEntries * 4))
    const offset = space.reserve(bytes.length)
    await node.write(offset, bytes.length, bytes, 0, 0)
    await space.writeFooter()
    await node.flush()
    const { tableOffset, maxEntries } = header
    header.tableOffset = offset
    header.maxEntries = entries
    try {
      // Everything that changes is in the first sector: it reaches the disk whole.
      await node.write(space.footer.dataOffset, sectorBytes, header.seal().bytes, 0, 0)
      await node.flush()
    } catch (error) {
      header.tableOffset = tableOffset
      header.maxEntries = maxEntries
      header.seal()
      throw error
    }
    table.moveTo(offset, bytes)
  }
  const before = space.footer
  space.footer = resizedFooter(before, length)
  space.footerChanged()
  try {
    await space.writeFooter()
    await node.write(0, footerBytes, space.footer.bytes, 0, 0)
    await node.flush()
  } catch (error) {
    space.footer = before
    space.footerChanged()
    throw error
  }
  return space.footer
}
