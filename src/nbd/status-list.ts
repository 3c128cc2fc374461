import type { StatusSink } from './served-export.js'

/** Most extents of one reply: a megabyte of them. */
const maxExtents = 128 * 1024

/** Collects the extents of one context, merging equal neighbours. */
export class StatusList implements StatusSink {
  /** Length and flags by turns. */
  readonly pairs: number[] = []
  readonly #maximum: number
  #left: number

  /** @param bytes how much may be described; `one`: only one extent */
  constructor(bytes: number, one: boolean) {
    this.#left = bytes
    this.#maximum = (one ? 1 : maxExtents) * 2
  }

  add(bytes: number, flags: number): boolean {
    const { pairs } = this
    const taken = Math.min(bytes, this.#left)
    const last = pairs.length - 1
    if (last > 0 && pairs[last] === flags) {
      pairs[last - 1] = (pairs[last - 1] as number) + taken
    } else if (pairs.length < this.#maximum) {
      pairs.push(taken, flags)
    } else {
      return false
    }
    this.#left -= taken
    return this.#left > 0
  }
}
