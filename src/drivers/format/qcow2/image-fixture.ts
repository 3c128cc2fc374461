/** Test support: looks at the raw bytes of an image without any of the driver's code. */

/** What a check by the bytes alone finds. Clusters. */
export interface RawCheck {
  /** Referenced more often than counted, or wrongly flagged as the only reference. */
  readonly corrupt: string[]
  /** Counted more often than referenced. */
  readonly leaked: string[]
}

const copiedBit = 1n << 63n
const compressedBit = 1n << 62n
const offsetMask = 0x00fffffffffffe00n

/** Counts every reference of an image without snapshots and compares with its refcounts. */
export function checkBytes(image: Uint8Array): RawCheck {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength)
  const u64 = (at: number): bigint => (at + 8 <= image.length ? view.getBigUint64(at) : 0n)
  const version = view.getUint32(4)
  const clusterBits = view.getUint32(20)
  const clusterSize = 1 << clusterBits
  const order = version === 2 ? 4 : view.getUint32(96)
  const l1Size = view.getUint32(36)
  const l1Offset = Number(u64(40))
  const tableOffset = Number(u64(48))
  const tableClusters = view.getUint32(56)
  const corrupt: string[] = []
  const leaked: string[] = []
  const references = new Map<number, number>()
  const flagged: { cluster: number; what: string; only: boolean }[] = []
  const count = (offset: number, bytes: number): void => {
    for (let c = Math.floor(offset / clusterSize); c <= Math.floor((offset + bytes - 1) / clusterSize); c++) {
      references.set(c, (references.get(c) ?? 0) + 1)
    }
  }
  const entryBytes = version === 3 && (view.getUint32(76) & 16) !== 0 ? 16 : 8
  const checkBitmap = (entry: bigint, bitmap: bigint, what: string): void => {
    const allocated = bitmap & 0xffffffffn
    if ((entry & compressedBit) !== 0n ? bitmap !== 0n : (allocated & (bitmap >> 32n)) !== 0n) {
      corrupt.push(`${what}: bitmap ${bitmap.toString(16)}`)
    }
    if ((entry & offsetMask) === 0n && (entry & compressedBit) === 0n && allocated !== 0n) {
      corrupt.push(`${what}: allocated subclusters without a cluster`)
    }
  }
  count(0, clusterSize)
  count(tableOffset, tableClusters * clusterSize)
  if (l1Size > 0) {
    count(l1Offset, l1Size * 8)
  }
  for (let i = 0; i < l1Size; i++) {
    const entry = u64(l1Offset + i * 8)
    const l2 = Number(entry & offsetMask)
    if (l2 === 0) {
      continue
    }
    if (l2 % clusterSize !== 0) {
      corrupt.push(`L2 table ${i} unaligned`)
      continue
    }
    count(l2, clusterSize)
    flagged.push({ cluster: l2 / clusterSize, what: `L1 entry ${i}`, only: (entry & copiedBit) !== 0n })
    for (let j = 0; j < clusterSize / entryBytes; j++) {
      const l2Entry = u64(l2 + j * entryBytes)
      if (entryBytes === 16) {
        checkBitmap(l2Entry, u64(l2 + j * 16 + 8), `entry ${i}/${j}`)
      }
      if ((l2Entry & compressedBit) !== 0n) {
        const shift = BigInt(62 - (clusterBits - 8))
        const offset = Number(l2Entry & ((1n << shift) - 1n))
        const sectors = Number((l2Entry & (compressedBit - 1n)) >> shift) + 1
        const start = offset - (offset % 512)
        count(start, sectors * 512)
        if ((l2Entry & copiedBit) !== 0n) {
          corrupt.push(`compressed entry ${i}/${j} has the copied flag`)
        }
        continue
      }
      const host = Number(l2Entry & offsetMask)
      if (host === 0) {
        continue
      }
      if (host % clusterSize !== 0) {
        corrupt.push(`entry ${i}/${j} unaligned`)
      }
      count(host, clusterSize)
      const only = (l2Entry & copiedBit) !== 0n
      flagged.push({ cluster: host / clusterSize, what: `L2 entry ${i}/${j}`, only })
    }
  }
  const blocks: number[] = []
  for (let i = 0; i < (tableClusters * clusterSize) / 8; i++) {
    const block = Number(u64(tableOffset + i * 8))
    blocks.push(block)
    if (block !== 0) {
      count(block, clusterSize)
    }
  }
  const perBlock = (clusterSize * 8) / 2 ** order
  const refcount = (cluster: number): number => {
    const block = blocks[Math.floor(cluster / perBlock)] ?? 0
    if (block === 0) {
      return 0
    }
    const bits = 2 ** order
    const index = cluster % perBlock
    if (bits < 8) {
      const byte = image[block + Math.floor((index * bits) / 8)] ?? 0
      return (byte >> ((index * bits) % 8)) & (2 ** bits - 1)
    }
    let value = 0
    for (let k = 0; k < bits / 8; k++) {
      value = value * 256 + (image[block + (index * bits) / 8 + k] ?? 0)
    }
    return value
  }
  const lastBlock = blocks.findLastIndex((block) => block !== 0)
  const end = Math.max(Math.ceil(image.length / clusterSize), (lastBlock + 1) * perBlock)
  for (const cluster of references.keys()) {
    if (cluster >= end) {
      corrupt.push(`cluster ${cluster} is referenced but cannot be counted`)
    }
  }
  for (let cluster = 0; cluster < end; cluster++) {
    const counted = refcount(cluster)
    const found = references.get(cluster) ?? 0
    if (counted < found) {
      corrupt.push(`cluster ${cluster} refcount=${counted} references=${found}`)
    } else if (counted > found) {
      leaked.push(`cluster ${cluster} refcount=${counted} references=${found}`)
    }
  }
  for (const { cluster, what, only } of flagged) {
    if (only !== (refcount(cluster) === 1)) {
      corrupt.push(`${what}: copied flag ${only} but refcount ${refcount(cluster)}`)
    }
  }
  return { corrupt, leaked }
}

/** A repeatable random generator (mulberry32). */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed
  }

  /** An integer in `[0, limit)`. */
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 0x100000000) * limit)
  }

  chance(probability: number): boolean {
    return this.below(1_000_000) < probability * 1_000_000
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T
  }

  /** Bytes that are neither all zero nor all equal, of low entropy so that they compress. */
  fill(into: Uint8Array): Uint8Array {
    const step = 1 + this.below(250)
    const start = this.below(256)
    for (let i = 0; i < into.length; i++) {
      into[i] = (start + Math.floor(i / 64) * step) & 255
    }
    return into
  }
}
