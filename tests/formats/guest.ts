import type { BlockNode } from '../../src/graph/index.js'
import { sector } from './format-under-test.js'

/** A sector that says which guest sector it belongs to and which write made it; generation 0 is zeroes. */
export function stamp(into: Uint8Array, at: number, guest: number, generation: number): void {
  if (generation === 0) {
    into.fill(0, at, at + sector)
    return
  }
  const view = new DataView(into.buffer, into.byteOffset + at, sector)
  for (let byte = 0; byte < sector; byte += 8) {
    view.setUint32(byte, guest + 1)
    view.setUint32(byte + 4, generation)
  }
}

/** Which write a sector shows, or a complaint if it shows another sector or parts of several. */
export function shownBy(bytes: Uint8Array, at: number, guest: number): number | string {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, sector)
  const owner = view.getUint32(0)
  const generation = view.getUint32(4)
  for (let byte = 0; byte < sector; byte += 8) {
    if (view.getUint32(byte) !== owner || view.getUint32(byte + 4) !== generation) {
      return `sector ${guest} is torn at byte ${byte}`
    }
  }
  if (owner === 0) {
    return generation === 0 ? 0 : `sector ${guest} shows stray bytes`
  }
  return owner === guest + 1 ? generation : `sector ${guest} shows sector ${owner - 1}`
}

/**
 * What a guest has written, sector by sector, and what a crash may therefore show: what was flushed
 * last and everything issued since.
 */
export class Guest {
  readonly current: number[]
  readonly possible: Set<number>[]
  readonly history: { at: number; possible: Set<number>[] }[] = []
  #generation = 0

  constructor(sectors: number) {
    this.current = Array.from({ length: sectors }, () => 0)
    this.possible = this.current.map(() => new Set([0]))
  }

  get sectors(): number {
    return this.current.length
  }

  /** Bytes for a write of `count` sectors from `first`, which is noted as issued. */
  write(first: number, count: number): Uint8Array {
    const generation = ++this.#generation
    const bytes = new Uint8Array(count * sector)
    for (let i = 0; i < count; i++) {
      stamp(bytes, i * sector, first + i, generation)
      this.#note(first + i, generation)
    }
    return bytes
  }

  zero(first: number, count: number): void {
    for (let i = 0; i < count; i++) {
      this.#note(first + i, 0)
    }
  }

  #note(guest: number, generation: number): void {
    this.possible[guest]?.add(generation)
    this.current[guest] = generation
  }

  flushed(): void {
    for (const [guest, generation] of this.current.entries()) {
      this.possible[guest] = new Set([generation])
    }
  }

  /** Remembers what may be shown once `at` operations have been issued below. */
  save(at: number): void {
    this.history.push({ at, possible: this.possible.map((set) => new Set(set)) })
  }

  /** The first sector that shows what it must not, or undefined. */
  problem(
    bytes: Uint8Array,
    possible: readonly ReadonlySet<number>[] = this.current.map((one) => new Set([one])),
  ) {
    for (let guest = 0; guest < possible.length; guest++) {
      const shown = shownBy(bytes, guest * sector, guest)
      if (typeof shown === 'string') {
        return shown
      }
      if (possible[guest]?.has(shown) !== true) {
        return `sector ${guest} shows write ${shown}, possible are ${[...(possible[guest] ?? [])].join(' ')}`
      }
    }
    return undefined
  }
}

/** Everything a node reads as, up to `bytes`. */
export async function readAll(node: BlockNode, bytes = node.length): Promise<Uint8Array> {
  const data = new Uint8Array(bytes)
  for (let at = 0; at < bytes; at += 1 << 20) {
    await node.read(at, Math.min(1 << 20, bytes - at), data, at, 0)
  }
  return data
}
