import { type OpenContext, truncateNode } from '../../../graph/index.js'
import { BlockStatus } from '../../../io/index.js'
import { DiskType, Footer, footerBytes, isFooter } from './footer.js'

/** How much is looked at before giving up: extents of the file, and bytes at the end of its data. */
const maxExtents = 65536
const maxSearchBytes = 64 << 20
const pieceBytes = 1 << 16

/**
 * The footer of a fixed disk that was made longer when the machine stopped: the file has its new length,
 * but reads as zeroes behind the old footer. It has to be the last thing in the file, and just where it says
 * that the disk ends. A file that may be written to is cut behind it.
 */
export async function findLostFooter({ file, node, flags }: OpenContext): Promise<Footer | undefined> {
  const found = await lastSector(file.node)
  if (found === undefined) {
    return undefined
  }
  const footer = new Footer(found.bytes)
  const isRight =
    isFooter(found.bytes) &&
    footer.checksumIsRight &&
    footer.type === DiskType.fixed &&
    footer.currentSize === found.offset
  if (!isRight) {
    return undefined
  }
  if (!node.readOnly && flags.write && !flags.inactive) {
    const end = found.offset + footerBytes
    await truncateNode(file.node, end, { exact: false, preallocation: 'off', zero: false })
  }
  return footer
}

/** The last sector of the file that holds anything, if it is found with little effort. */
async function lastSector(
  node: OpenContext['file']['node'],
): Promise<{ readonly offset: number; readonly bytes: Uint8Array } | undefined> {
  const length = Math.floor(node.length / footerBytes) * footerBytes
  const status = new BlockStatus()
  let end = 0
  let at = 0
  for (let extents = 0; at < length; extents++) {
    if (extents === maxExtents) {
      return undefined
    }
    await node.status(at, length - at, 'zero', status)
    at += status.bytes
    if (!status.zero) {
      end = Math.min(length, Math.ceil(at / footerBytes) * footerBytes)
    }
  }
  const stop = Math.max(0, end - maxSearchBytes)
  while (end > stop) {
    const from = Math.max(stop, end - pieceBytes)
    const bytes = new Uint8Array(end - from)
    await node.read(from, bytes.length, bytes, 0, 0)
    for (let sector = bytes.length - footerBytes; sector >= 0; sector -= footerBytes) {
      const part = bytes.subarray(sector, sector + footerBytes)
      if (part.some((byte) => byte !== 0)) {
        return { offset: from + sector, bytes: part.slice() }
      }
    }
    end = from
  }
  return undefined
}
