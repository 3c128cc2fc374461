import { codeOf } from '../errors/index.js'
import type { Wait } from '../sched/index.js'
import { type ExtentSink, type MapPath, WritePlan } from './data-path.js'
import { afterEvent } from './debug-events.js'
import { writeEncoded } from './encoded.js'
import { ReqFlags } from './flags.js'
import type { IoNode } from './node.js'

/** Finds out whether a range reads as zeroes without any I/O: copy-on-write then needs no read. */
class ZeroProbe implements ExtentSink {
  allZero = true
  readonly #owner: IoNode
  offset = 0

  constructor(owner: IoNode) {
    this.#owner = owner
  }

  data(): boolean {
    this.allZero = false
    return false
  }

  zero(bytes: number): boolean {
    this.offset += bytes
    return true
  }

  unallocated(bytes: number): boolean {
    const backing = this.#owner.backingNode
    if (backing !== undefined && this.offset < backing.length) {
      this.allZero = false
    }
    this.offset += bytes
    return this.allZero
  }

  encoded(): boolean {
    this.allZero = false
    return false
  }
}

/**
 * Writes through a node's map: resolve, copy what the allocation must also hold, write, commit.
 *
 * Durable is nothing before a flush. Order on disk is the driver's: it accounts for the space
 * in `resolveWrite`, links it in `commitWrite`, and a failure in between calls `abortWrite`,
 * which may leak space but never links it.
 */
export class WriteRuns {
  readonly #owner: IoNode
  readonly #idle: WritePlan[] = []

  constructor(owner: IoNode) {
    this.#owner = owner
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    const map = this.#owner.map as MapPath
    const plan = this.#idle.pop() ?? new WritePlan()
    let done = 0
    while (done < bytes) {
      const wait = map.resolveWrite?.(offset + done, bytes - done, flags, plan)
      if (wait !== undefined || plan.conflict) {
        return this.#slow(plan, wait, offset, bytes, done, buffer, bufferOffset, flags)
      }
      const moved = this.#move(plan, offset + done, buffer, bufferOffset + done, flags)
      if (moved !== undefined) {
        return this.#afterMove(plan, moved, offset, bytes, done, buffer, bufferOffset, flags)
      }
      done += plan.bytes
    }
    this.#idle.push(plan)
    return undefined
  }

  async #afterMove(
    plan: WritePlan,
    moved: Promise<void>,
    offset: number,
    bytes: number,
    done: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Promise<void> {
    const rest = done + plan.bytes
    await moved
    if (rest >= bytes) {
      this.#idle.push(plan)
      return
    }
    const wait = (this.#owner.map as MapPath).resolveWrite?.(offset + rest, bytes - rest, flags, plan)
    await this.#slow(plan, wait, offset, bytes, rest, buffer, bufferOffset, flags)
  }

  async #slow(
    plan: WritePlan,
    first: Wait,
    offset: number,
    bytes: number,
    start: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Promise<void> {
    const map = this.#owner.map as MapPath
    let wait = first
    let done = start
    while (done < bytes) {
      if (wait !== undefined) {
        await wait
      }
      if (plan.conflict) {
        const free = this.#owner.allocations.wait(plan.lockStart, plan.lockEnd)
        if (free !== undefined) {
          await free
        }
        plan.conflict = false
      } else {
        const moved = this.#move(plan, offset + done, buffer, bufferOffset + done, flags)
        const covered = plan.bytes
        if (moved !== undefined) {
          await moved
        }
        done += covered
      }
      if (done < bytes) {
        wait = map.resolveWrite?.(offset + done, bytes - done, flags, plan)
      }
    }
    this.#idle.push(plan)
  }

  /** Moves one plan's data and commits it. */
  #move(plan: WritePlan, offset: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    const dataFlags = flags & ReqFlags.fua
    if (!plan.allocates) {
      return this.#store(plan, offset, buffer, bufferOffset, dataFlags)
    }
    let wait: Wait
    try {
      wait =
        plan.headBytes === 0 && plan.tailBytes === 0
          ? this.#store(plan, offset, buffer, bufferOffset, dataFlags)
          : this.#copyOnWrite(plan, offset, buffer, bufferOffset)
    } catch (error) {
      const aborted = this.#abort(plan)
      if (aborted !== undefined) {
        return rethrowAfter(aborted, error)
      }
      throw error
    }
    if (wait !== undefined) {
      return this.#commitAfter(plan, wait)
    }
    return this.#commit(plan)
  }

  /** Writes the plan's data, in the form in which it is stored. */
  #store(plan: WritePlan, offset: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    const debug = this.#owner.childDebug
    if (debug === undefined) {
      return this.#storeNow(plan, offset, buffer, bufferOffset, flags)
    }
    return afterEvent(debug, 'write_aio', () => this.#storeNow(plan, offset, buffer, bufferOffset, flags))
  }

  #storeNow(plan: WritePlan, offset: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    const map = this.#owner.map
    return map?.encode === undefined
      ? plan.target.write(plan.targetOffset, plan.bytes, buffer, bufferOffset, flags)
      : writeEncoded(map, offset, plan.bytes, plan.target, plan.targetOffset, buffer, bufferOffset, flags)
  }

  /** Writes the plan's data as it is. */
  #storePlain(plan: WritePlan, buffer: Uint8Array, bufferOffset: number): Wait {
    return afterEvent(this.#owner.childDebug, 'write_aio', () =>
      plan.target.write(plan.targetOffset, plan.bytes, buffer, bufferOffset, 0),
    )
  }

  /** Writes data with what was copied around it. */
  #storeCopied(target: IoNode, offset: number, buffer: Uint8Array): Wait {
    const debug = this.#owner.childDebug
    return afterEvent(debug, 'write_aio', () =>
      afterEvent(debug, 'cow_write', () => target.write(offset, buffer.length, buffer, 0, 0)),
    )
  }

  #readCopy(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return afterEvent(this.#owner.childDebug, 'cow_read', () =>
      this.#owner.read(offset, bytes, buffer, bufferOffset, 0),
    )
  }

  #commit(plan: WritePlan): Wait {
    let wait: Wait
    try {
      wait = this.#owner.map?.commitWrite?.(plan)
    } catch (error) {
      this.#unlock(plan)
      throw error
    }
    if (wait === undefined) {
      this.#unlock(plan)
      return undefined
    }
    return this.#unlockAfter(plan, wait)
  }

  async #unlockAfter(plan: WritePlan, wait: Promise<void>): Promise<void> {
    const lock = plan.lock
    try {
      await wait
    } finally {
      if (lock !== undefined) {
        this.#owner.allocations.release(lock)
      }
      plan.lock = undefined
    }
  }

  #unlock(plan: WritePlan): void {
    if (plan.lock !== undefined) {
      this.#owner.allocations.release(plan.lock)
      plan.lock = undefined
    }
  }

  #abort(plan: WritePlan): Wait {
    try {
      return this.#owner.map?.abortWrite?.(plan)
    } finally {
      this.#unlock(plan)
    }
  }

  async #commitAfter(plan: WritePlan, wait: Promise<void>): Promise<void> {
    try {
      await wait
    } catch (error) {
      const aborted = this.#abort(plan)
      if (aborted !== undefined) {
        await aborted.catch(() => undefined)
      }
      throw error
    }
    const commit = this.#commit(plan)
    if (commit !== undefined) {
      await commit
    }
  }

  /** Writes head, data and tail of a new allocation in one request. */
  #copyOnWrite(plan: WritePlan, offset: number, buffer: Uint8Array, bufferOffset: number): Wait {
    const owner = this.#owner
    const start = offset - plan.headBytes
    const dataEnd = offset + plan.bytes
    const whole = plan.headBytes + plan.bytes + plan.tailBytes
    const target = plan.target
    const targetStart = plan.targetOffset - plan.headBytes
    const headZero = this.#isZero(start, plan.headBytes)
    const tailZero = this.#isZero(dataEnd, plan.tailBytes)
    const map = owner.map
    const encode =
      map?.encode === undefined
        ? undefined
        : (whole: Uint8Array) => {
            map.encode?.(start, targetStart, whole.length, whole, 0)
          }
    // Zeroes on the disk are no zeroes once they are decoded.
    if (headZero && tailZero && encode === undefined) {
      if (plan.targetIsZero) {
        return this.#storePlain(plan, buffer, bufferOffset)
      }
      if (whole - plan.bytes >= 16384) {
        return this.#zeroThenWrite(plan, targetStart, whole, buffer, bufferOffset)
      }
    }
    const bounce = new Uint8Array(whole)
    bounce.set(buffer.subarray(bufferOffset, bufferOffset + plan.bytes), plan.headBytes)
    let wait: Wait
    if (!headZero) {
      plan.copied = true
      wait = this.#readCopy(start, plan.headBytes, bounce, 0)
    }
    if (!tailZero) {
      plan.copied = true
      const tail = this.#readCopy(dataEnd, plan.tailBytes, bounce, plan.headBytes + plan.bytes)
      if (tail !== undefined || wait !== undefined) {
        return this.#writeAfter([wait, tail], target, targetStart, bounce, encode)
      }
    }
    if (wait !== undefined) {
      return this.#writeAfter([wait], target, targetStart, bounce, encode)
    }
    encode?.(bounce)
    return this.#storeCopied(target, targetStart, bounce)
  }

  async #zeroThenWrite(
    plan: WritePlan,
    targetStart: number,
    whole: number,
    buffer: Uint8Array,
    bufferOffset: number,
  ): Promise<void> {
    const target = plan.target
    try {
      const zeroed = afterEvent(this.#owner.childDebug, 'cluster_alloc_space', () =>
        target.writeZeroes(targetStart, whole, ReqFlags.noFallback),
      )
      if (zeroed !== undefined) {
        await zeroed
      }
    } catch (error) {
      const code = codeOf(error)
      if (code !== 'ENOTSUP' && code !== 'EAGAIN') {
        throw error
      }
      const bounce = new Uint8Array(whole)
      bounce.set(buffer.subarray(bufferOffset, bufferOffset + plan.bytes), plan.headBytes)
      const written = this.#storeCopied(target, targetStart, bounce)
      if (written !== undefined) {
        await written
      }
      return
    }
    const written = this.#storePlain(plan, buffer, bufferOffset)
    if (written !== undefined) {
      await written
    }
  }

  async #writeAfter(
    reads: Wait[],
    target: IoNode,
    offset: number,
    buffer: Uint8Array,
    encode: ((buffer: Uint8Array) => void) | undefined,
  ): Promise<void> {
    for (const result of await Promise.allSettled(reads)) {
      if (result.status === 'rejected') {
        throw result.reason
      }
    }
    encode?.(buffer)
    const written = this.#storeCopied(target, offset, buffer)
    if (written !== undefined) {
      await written
    }
  }

  /** Whether the guest range is known to be zero from cached metadata alone. */
  #isZero(offset: number, bytes: number): boolean {
    if (bytes === 0) {
      return true
    }
    const end = Math.min(offset + bytes, this.#owner.length)
    if (offset >= end) {
      return true
    }
    const probe = new ZeroProbe(this.#owner)
    probe.offset = offset
    const wait = this.#owner.map?.resolveRead(offset, end - offset, probe)
    if (wait !== undefined) {
      // Metadata is not at hand: treat as data; the probe's late answer is not needed.
      wait.catch(() => undefined)
      return false
    }
    return probe.allZero
  }
}

async function rethrowAfter(wait: Promise<void>, error: unknown): Promise<void> {
  await wait.catch(() => undefined)
  throw error
}
