import { blockError } from '../../../errors/index.js'
import type { IoNode } from '../../../io/index.js'
import type { BitmapEntry } from './bitmap-directory.js'
import { ByteReader } from './byte-reader.js'
import { tableEntryBytes } from './constants.js'
import { readInside } from './file-read.js'
import type { Qcow2Header } from './header.js'

/** Table entries that are no offset: all bits of the cluster are clear, or set. */
export const allZeroes = 0
export const allOnes = 1

/** Offset bits of an entry, and bits that must be zero: words 63..32 and 31..0. */
const offsetMask = [0x00ffffff, 0xfffffe00] as const
const reservedMask = [0xff000000, 0x000001fe] as const

/**
 * The entries of a bitmap's table as far as the file holds them, the rest being zero: offsets of
 * clusters in bytes, {@link allZeroes} or {@link allOnes}.
 *
 * @throws EINVAL if an entry is not valid
 */
export async function readBitmapTable(
  file: IoNode,
  header: Qcow2Header,
  { tableOffset, tableSize }: Pick<BitmapEntry, 'tableOffset' | 'tableSize'>,
): Promise<Float64Array> {
  const bytes = await readInside(file, tableOffset, tableSize * tableEntryBytes)
  const reader = new ByteReader(bytes)
  const table = new Float64Array(Math.ceil(bytes.length / tableEntryBytes))
  for (let index = 0; index < table.length; index++) {
    const high = reader.u32(index * tableEntryBytes)
    const low = reader.u32(index * tableEntryBytes + 4)
    const offset = (high & offsetMask[0]) * 0x100000000 + ((low & offsetMask[1]) >>> 0)
    if (
      (high & reservedMask[0]) !== 0 ||
      (low & reservedMask[1]) !== 0 ||
      (offset !== 0 && ((low & 1) !== 0 || offset % header.clusterSize !== 0))
    ) {
      throw blockError('EINVAL', 'Invalid argument')
    }
    table[index] = offset === 0 ? low & 1 : offset
  }
  return table
}

/** The bytes of a table. */
export function serializeBitmapTable(table: Float64Array): Uint8Array {
  const bytes = new Uint8Array(table.length * tableEntryBytes)
  const view = new DataView(bytes.buffer)
  table.forEach((entry, index) => {
    view.setUint32(index * tableEntryBytes, Math.floor(entry / 0x100000000))
    view.setUint32(index * tableEntryBytes + 4, entry % 0x100000000)
  })
  return bytes
}

/**
 * The clusters a bitmap's table points to, as byte offsets; bitmaps keep runs of equal bits without
 * a cluster.
 *
 * @throws EINVAL if an entry is not valid
 */
export async function readBitmapClusters(
  file: IoNode,
  header: Qcow2Header,
  bitmap: BitmapEntry,
): Promise<number[]> {
  return [...(await readBitmapTable(file, header, bitmap))].filter((entry) => entry > allOnes)
}
