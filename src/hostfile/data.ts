import { codeOf } from '../errors/index.js'
import type { HostFile } from '../host/index.js'
import { type DirectPath, type ExtentSink, type IoNode, type RangeResult, ReqFlags } from '../io/index.js'
import type { Maybe, Wait } from '../sched/index.js'
import { DiscardCounts } from './discard-counts.js'
import { FileExtents } from './extents.js'

/** Runs an operation of the platform; errnos in `tolerated` count as "not possible here". */
function attempt(run: () => Maybe<boolean>, tolerated: readonly string[]): Maybe<boolean> {
  const failed = (error: unknown): false => {
    if (tolerated.includes(codeOf(error))) {
      return false
    }
    throw error
  }
  try {
    const done = run()
    return typeof done === 'boolean' ? done : done.catch(failed)
  } catch (error) {
    return failed(error)
  }
}

/** The I/O of a node on a host file or device: requests go straight to the platform. */
export abstract class HostFileData implements DirectPath {
  /** Changed when the file is opened again with another access mode. */
  file: HostFile
  protected readonly node: IoNode
  readonly discards = new DiscardCounts()

  constructor(node: IoNode, file: HostFile) {
    this.node = node
    this.file = file
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.file.read(offset, bytes, buffer, bufferOffset)
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.file.write(offset, bytes, buffer, bufferOffset)
  }

  /** The file is, or is no longer, open past the page cache. */
  abstract setDirect(direct: boolean): void
  abstract zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait
  abstract discard(offset: number, bytes: number, out: RangeResult): Wait
  /** Parts of the range may have become holes behind this object's back. */
  abstract forgetExtents(offset: number, bytes: number): void
}

/** Takes over what an attempt at a zero or discard request came to. */
function settle(done: Maybe<boolean>, bytes: number, out: RangeResult): Wait {
  if (typeof done === 'boolean') {
    out.bytes = done ? bytes : 0
    return undefined
  }
  return done.then((result) => {
    out.bytes = result ? bytes : 0
  })
}

/** Whether the range consists of blocks of any usual file system. */
function wholeBlocks(offset: number, bytes: number): boolean {
  return offset % 65536 === 0 && bytes % 65536 === 0
}

/** A regular file, which may have holes. */
export class RegularFileData extends HostFileData {
  readonly #extents = new FileExtents()
  /** What the file system turned out not to support is not tried again. */
  #canZeroRange = true
  #canPunch = true
  #canAllocate = true

  setDirect(): void {
    // Holes are made the same way.
  }

  zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait {
    this.#extents.forget(offset, bytes)
    const unmap = (flags & ReqFlags.mayUnmap) !== 0
    if (unmap && offset + bytes > this.node.length) {
      return this.#unmapPastEnd(offset, bytes, out)
    }
    const first = unmap ? this.#punch(offset, bytes) : this.#zeroRange(offset, bytes)
    if (first === true) {
      out.bytes = bytes
      return undefined
    }
    return this.#zeroSlow(first, unmap, offset, bytes, out)
  }

  discard(offset: number, bytes: number, out: RangeResult): Wait {
    this.#extents.forget(offset, bytes)
    if (!this.#canPunch) {
      return undefined
    }
    const wait = settle(
      this.#noted(this.file.punchHole(offset, bytes), 'punch', wholeBlocks(offset, bytes)),
      bytes,
      out,
    )
    return this.discards.note(wait, bytes, out)
  }

  status(offset: number, bytes: number, want: 'zero' | 'allocation', out: ExtentSink): Wait {
    if (want === 'allocation') {
      out.data(bytes, this.node, offset, 0)
    } else {
      const align = this.node.limits.requestAlignment
      this.#extents.report(this.file, this.node, offset, bytes, align, out)
    }
    return undefined
  }

  forgetExtents(offset: number, bytes: number): void {
    this.#extents.forget(offset, bytes)
  }

  async #zeroSlow(
    first: Maybe<boolean>,
    unmap: boolean,
    offset: number,
    bytes: number,
    out: RangeResult,
  ): Promise<void> {
    const done =
      (await first) ||
      (unmap && (await this.#zeroRange(offset, bytes))) ||
      (await this.#punchAndAllocate(offset, bytes)) ||
      (offset >= this.file.size() && (await this.#allocate(offset, bytes)))
    out.bytes = done ? bytes : 0
  }

  /** Zeroes a range that may be given up and reaches past the end of the file, which has to grow. */
  async #unmapPastEnd(offset: number, bytes: number, out: RangeResult): Promise<void> {
    const size = this.file.size()
    if (offset < size && !(await this.#punch(offset, bytes))) {
      await this.#zeroSlow(false, true, offset, bytes, out)
      return
    }
    if (offset + bytes > size) {
      // Unlike truncating, a write never cuts off what another request in flight appends.
      const block = Math.min(bytes, this.node.limits.requestAlignment)
      const wait = this.file.write(offset + bytes - block, block, new Uint8Array(block), 0)
      if (wait !== undefined) {
        await wait
      }
    }
    out.bytes = bytes
  }

  async #punchAndAllocate(offset: number, bytes: number): Promise<boolean> {
    if (!this.#canAllocate || !(await this.#punch(offset, bytes))) {
      return false
    }
    return await this.#allocate(offset, bytes)
  }

  // Some file systems answer EINVAL to ranges that are not whole blocks.
  #zeroRange(offset: number, bytes: number): Maybe<boolean> {
    if (!this.#canZeroRange) {
      return false
    }
    return attempt(
      () => this.#noted(this.file.zeroRange(offset, bytes), 'zeroRange', wholeBlocks(offset, bytes)),
      ['EINVAL'],
    )
  }

  #punch(offset: number, bytes: number): Maybe<boolean> {
    if (!this.#canPunch) {
      return false
    }
    return attempt(
      () => this.#noted(this.file.punchHole(offset, bytes), 'punch', wholeBlocks(offset, bytes)),
      ['EINVAL', 'EBUSY'],
    )
  }

  #allocate(offset: number, bytes: number): Maybe<boolean> {
    return this.#canAllocate ? this.#noted(this.file.allocate(offset, bytes), 'allocate', true) : false
  }

  /** A refusal of whole blocks is final; one of a range with odd ends may be due to these. */
  #noted(done: Maybe<boolean>, what: 'punch' | 'zeroRange' | 'allocate', aligned: boolean): Maybe<boolean> {
    if (typeof done !== 'boolean') {
      return done.then((result) => this.#noted(result, what, aligned))
    }
    if (!done && aligned) {
      if (what === 'punch') {
        this.#canPunch = false
      } else if (what === 'zeroRange') {
        this.#canZeroRange = false
      } else {
        this.#canAllocate = false
      }
    }
    return done
  }
}

/** A block or character device. It has no extents: everything is data. */
export class DeviceData extends HostFileData {
  /** Zeroing past the page cache leaves stale pages in it, so only O_DIRECT may. */
  #mayZero: boolean
  #canDiscard = true

  constructor(node: IoNode, file: HostFile, direct: boolean) {
    super(node, file)
    this.#mayZero = direct
  }

  setDirect(direct: boolean): void {
    this.#mayZero = direct
  }

  zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait {
    const tolerated = ['EINVAL', 'EBUSY', 'EPERM', 'ENODEV']
    if ((flags & ReqFlags.mayUnmap) !== 0) {
      const done = attempt(() => this.file.punchHole(offset, bytes), tolerated)
      if (done !== false) {
        return settle(done, bytes, out)
      }
    }
    // The kernel may fall back to writing zeroes itself, which `noFallback` forbids.
    if (!this.#mayZero || (flags & ReqFlags.noFallback) !== 0) {
      return undefined
    }
    return settle(
      attempt(() => this.file.zeroRange(offset, bytes), tolerated),
      bytes,
      out,
    )
  }

  discard(offset: number, bytes: number, out: RangeResult): Wait {
    if (!this.#canDiscard) {
      return undefined
    }
    const done = this.file.discardDevice(offset, bytes)
    if (done === false) {
      this.#canDiscard = false
    }
    return this.discards.note(settle(done, bytes, out), bytes, out)
  }

  forgetExtents(): void {
    // No extents are remembered.
  }
}
