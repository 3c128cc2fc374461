import { both, type Wait } from '../sched/index.js'
import type { ExtentSink, MapPath } from './data-path.js'
import { afterEvent, type DebugEvent } from './debug-events.js'
import { readDecoded } from './encoded.js'
import { ExtentFlags } from './flags.js'
import type { IoNode } from './node.js'

/** The sink that carries out a read: each extent starts the child request that fills its part of the buffer. */
class ReadRun implements ExtentSink {
  readonly #owner: IoNode
  buffer!: Uint8Array
  bufferOffset = 0
  offset = 0
  pending: Wait = undefined

  constructor(owner: IoNode) {
    this.#owner = owner
  }

  data(bytes: number, node: IoNode, offset: number, flags: number): boolean {
    if ((flags & ExtentFlags.encoded) !== 0) {
      const map = this.#owner.map as MapPath
      const { offset: at, buffer, bufferOffset } = this
      const debug = this.#owner.childDebug
      return this.#add(
        bytes,
        debug === undefined
          ? readDecoded(map, at, bytes, node, offset, buffer, bufferOffset)
          : afterEvent(debug, 'read_aio', () =>
              readDecoded(map, at, bytes, node, offset, buffer, bufferOffset),
            ),
      )
    }
    const wait =
      this.#owner.childDebug === undefined
        ? node.read(offset, bytes, this.buffer, this.bufferOffset, 0)
        : this.#readDebugged('read_aio', node, offset, bytes)
    return this.#add(bytes, wait)
  }

  zero(bytes: number): boolean {
    this.buffer.fill(0, this.bufferOffset, this.bufferOffset + bytes)
    return this.#add(bytes, undefined)
  }

  unallocated(bytes: number): boolean {
    const backing = this.#owner.backingNode
    if (backing === undefined) {
      return this.zero(bytes)
    }
    // A backing node shorter than this one reads as zeroes past its end: read() sees to that.
    const wait =
      this.#owner.childDebug === undefined
        ? backing.read(this.offset, bytes, this.buffer, this.bufferOffset, 0)
        : this.#readDebugged('read_backing_aio', backing, this.offset, bytes)
    return this.#add(bytes, wait)
  }

  #readDebugged(event: DebugEvent, node: IoNode, offset: number, bytes: number): Wait {
    const { buffer, bufferOffset } = this
    return afterEvent(this.#owner.childDebug, event, () => node.read(offset, bytes, buffer, bufferOffset, 0))
  }

  encoded(bytes: number, cookie: number): boolean {
    const map = this.#owner.map
    if (map?.readEncoded === undefined) {
      throw new Error(`${this.#owner.nodeName} reports encoded extents without readEncoded`)
    }
    return this.#add(bytes, map.readEncoded(cookie, this.offset, bytes, this.buffer, this.bufferOffset))
  }

  #add(bytes: number, wait: Wait): boolean {
    if (wait !== undefined) {
      this.pending = both(this.pending, wait)
    }
    this.offset += bytes
    this.bufferOffset += bytes
    return true
  }
}

/** Keeps the idle runs of a node, so that a read allocates none. */
export class ReadRuns {
  readonly #owner: IoNode
  readonly #idle: ReadRun[] = []

  constructor(owner: IoNode) {
    this.#owner = owner
  }

  /** Reads through the node's map. */
  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    const map = this.#owner.map
    if (map === undefined) {
      throw new Error(`${this.#owner.nodeName} has no map`)
    }
    const run = this.#idle.pop() ?? new ReadRun(this.#owner)
    run.buffer = buffer
    run.bufferOffset = bufferOffset
    run.offset = offset
    run.pending = undefined
    let wait: Wait
    try {
      wait = map.resolveRead(offset, bytes, run)
    } catch (error) {
      // Child reads already started still write into the caller's buffer.
      if (run.pending === undefined) {
        throw error
      }
      return failAfter(run.pending, error)
    }
    if (wait === undefined && run.pending === undefined) {
      this.#idle.push(run)
      return undefined
    }
    return this.#finish(run, wait)
  }

  async #finish(run: ReadRun, wait: Wait): Promise<void> {
    try {
      if (wait !== undefined) {
        await wait
      }
    } catch (error) {
      if (run.pending !== undefined) {
        await run.pending.catch(() => undefined)
      }
      throw error
    }
    if (run.pending !== undefined) {
      await run.pending
    }
    this.#idle.push(run)
  }
}

async function failAfter(pending: Promise<void>, error: unknown): Promise<void> {
  await pending.catch(() => undefined)
  throw error
}
