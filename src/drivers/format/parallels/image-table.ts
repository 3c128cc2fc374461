import { readU32LE, readU64LE, writeU32LE, writeU64LE } from '../../../bytes/index.js'
import { LoadedTable } from '../../../formatkit/index.js'
import type { BlockChild } from '../../../graph/index.js'
import { at, headerBytes, type ImageKind, inUseMagic, sectorBytes, tableEnd } from './layout.js'

/**
 * The header and the block table behind it, as they stand at the start of the file. All of it is in
 * memory; changes stay there until they are taken and written.
 */
export class ImageTable extends LoadedTable {
  readonly clusterSize: number
  /** Bytes that one unit of an entry stands for. */
  readonly unit: number

  /** @param bytes {@link tableEnd} bytes, checked by who opens the image */
  constructor(file: BlockChild, kind: ImageKind, bytes: Uint8Array) {
    super(file, 0, bytes)
    this.clusterSize = readU32LE(bytes, at.tracks) * sectorBytes
    this.unit = kind === 'sectors' ? sectorBytes : this.clusterSize
  }

  get entries(): number {
    return readU32LE(this.bytes, at.entries)
  }

  get inUse(): boolean {
    return readU32LE(this.bytes, at.inUse) === inUseMagic
  }

  set inUse(value: boolean) {
    writeU32LE(this.bytes, at.inUse, value ? inUseMagic : 0)
    this.changed(at.inUse)
  }

  /** Place of the format extension, bytes; 0: none. Compare before use: it may be anything. */
  get extOffset(): number {
    return readU64LE(this.bytes, at.extOffset) * sectorBytes
  }

  dropExtension(): void {
    writeU64LE(this.bytes, at.extOffset, 0)
    this.changed(at.extOffset)
  }

  /** Where the first cluster may stand, bytes: behind the table. */
  get dataStart(): number {
    const start = Math.max(readU32LE(this.bytes, at.dataOffset) * sectorBytes, tableEnd(this.entries))
    return Math.ceil(start / this.unit) * this.unit
  }

  /** Place of the cluster, bytes, which may be anything; 0: it is not there. Past the table there are none. */
  cluster(index: number): number {
    return index < this.entries ? readU32LE(this.bytes, headerBytes + index * 4) * this.unit : 0
  }

  /** Calls `visit` for every entry that has a cluster, in order, with its place in bytes. */
  eachCluster(visit: (index: number, offset: number) => void): void {
    const { bytes, entries, unit } = this
    for (let index = 0; index < entries; index++) {
      const units = readU32LE(bytes, headerBytes + index * 4)
      if (units !== 0) {
        visit(index, units * unit)
      }
    }
  }

  /** Whether an entry can say this place. */
  canSay(offset: number): boolean {
    return offset / this.unit <= 0xffffffff
  }

  /** @param offset place of the cluster, bytes, a multiple of {@link unit}; 0: it is not there any more */
  set(index: number, offset: number): void {
    writeU32LE(this.bytes, headerBytes + index * 4, offset / this.unit)
    this.changed(headerBytes + index * 4)
  }

  /** Ends of all clusters: what lies beyond is free. Bytes, a multiple of {@link unit}. */
  dataEnd(): number {
    let end = this.dataStart
    const { clusterSize } = this
    this.eachCluster((_, offset) => {
      end = Math.max(end, offset + clusterSize)
    })
    return Math.ceil(end / this.unit) * this.unit
  }

  /** Writes what has changed and makes it durable. */
  async store(file: BlockChild): Promise<void> {
    await this.write(this.takeChanges())
    await file.node.flush()
  }
}
