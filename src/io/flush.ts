import { settleAll, type Wait } from '../sched/index.js'
import type { IoNode } from './node.js'

/** The driver's part of a flush. */
export interface FlushPath {
  /** {@link flushToOs} flushes the children as far as that is wanted; the core leaves them alone. */
  readonly flushesChildren?: boolean
  /** Hands cached metadata to the layer below, in dependency order. Runs even with `cache.no-flush`. */
  flushToOs?(): Wait
  /** Makes what this layer has handed to the outside durable (fsync). */
  flushToDisk?(): Wait
}

/** Flushes of one node: coalesced by write generation, one at a time. */
export class FlushState {
  readonly #node: IoNode
  /** Counts completed writes. */
  writeGeneration = 0
  #flushedGeneration = 0
  #active: Promise<void> | undefined = undefined
  /** Flushes begun and not finished. */
  #pending = 0
  readonly #idleWaiters: (() => void)[] = []

  constructor(node: IoNode) {
    this.#node = node
  }

  flush(): Wait {
    const node = this.#node
    if (this.#active === undefined && node.readOnly) {
      return undefined
    }
    return this.#queue()
  }

  /** Settles when no flush is in flight. */
  idle(): Wait {
    if (this.#pending === 0) {
      return undefined
    }
    return new Promise<void>((resolve) => {
      this.#idleWaiters.push(resolve)
    })
  }

  async #queue(): Promise<void> {
    this.#pending++
    try {
      while (this.#active !== undefined) {
        await this.#active.catch(() => undefined)
      }
      const run = this.#run()
      this.#active = run
      try {
        await run
      } finally {
        this.#active = undefined
      }
    } finally {
      if (--this.#pending === 0) {
        for (const resolve of this.#idleWaiters.splice(0)) {
          resolve()
        }
      }
    }
  }

  async #run(): Promise<void> {
    const node = this.#node
    const generation = this.writeGeneration
    const debug = node.childDebug
    if (debug !== undefined) {
      await debug.event('flush_to_os')
    }
    const toOs = node.flushPath?.flushToOs?.()
    if (toOs !== undefined) {
      await toOs
    }
    if (!node.noFlush && generation !== this.#flushedGeneration) {
      if (debug !== undefined) {
        await debug.event('flush_to_disk')
      }
      const toDisk = node.flushPath?.flushToDisk?.()
      if (toDisk !== undefined) {
        await toDisk
      }
    }
    if (node.flushPath?.flushesChildren !== true) {
      await settleAll(node.flushNodes.map((child) => child.flush()))
    }
    this.#flushedGeneration = generation
  }
}
