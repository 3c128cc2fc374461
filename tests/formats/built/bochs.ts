/** A growing redolog as bximage and Bochs make it. */
export interface BochsSpec {
  readonly version?: 1 | 2
  /** Bytes. */
  readonly extentBytes?: number
  readonly bitmapBytes?: number
  readonly catalogEntries?: number
}

/** The image of a disk whose sectors of zeroes are not stored. `disk` is whole sectors. */
export function buildBochs(disk: Uint8Array, spec: BochsSpec = {}): Uint8Array {
  const { version = 2, extentBytes = 16384 } = spec
  const extents = Math.ceil(disk.length / extentBytes)
  const { bitmapBytes = Math.ceil(extentBytes / 512 / 8), catalogEntries = extents } = spec
  const header = Buffer.alloc(512)
  header.write('Bochs Virtual HD Image', 0)
  header.write('Redolog', 32)
  header.write('Growing', 48)
  header.writeUInt32LE(version << 16, 64)
  header.writeUInt32LE(512, 68)
  header.writeUInt32LE(catalogEntries, 72)
  header.writeUInt32LE(bitmapBytes, 76)
  header.writeUInt32LE(extentBytes, 80)
  header.writeBigUInt64LE(BigInt(disk.length), version === 1 ? 84 : 88)
  const catalog = Buffer.alloc(catalogEntries * 4, 0xff)
  const parts: Uint8Array[] = []
  // Extents come in the order they were written in: the last one first.
  for (let extent = extents - 1, place = 0; extent >= 0; extent--) {
    const data = Buffer.alloc(extentBytes)
    data.set(disk.subarray(extent * extentBytes, (extent + 1) * extentBytes))
    const bitmap = Buffer.alloc(Math.ceil(bitmapBytes / 512) * 512)
    let any = false
    for (let sector = 0; sector < extentBytes / 512; sector++) {
      if (data.subarray(sector * 512, (sector + 1) * 512).some((byte) => byte !== 0)) {
        bitmap[sector >> 3] = (bitmap[sector >> 3] as number) | (1 << (sector & 7))
        any = true
      }
    }
    if (any) {
      catalog.writeUInt32LE(place++, extent * 4)
      parts.push(bitmap, data)
    }
  }
  return Buffer.concat([header, catalog, ...parts])
}
