import { blockError, errnoName, ioError } from '../../../errors/index.js'
import {
  type BlockChild,
  type BlockNode,
  type DebugHooks,
  type DriverState,
  defaultChildPermissions,
  hasZeroInit,
  nothingToReopen,
  type ReopenPlan,
  type TruncateOptions,
  truncateNode,
} from '../../../graph/index.js'
import {
  type BlockLimits,
  type DebugEvent,
  type DirectPath,
  ExtentFlags,
  type ExtentSink,
  type FlushPath,
  type RangeResult,
  ReqFlags,
} from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import { applyLimits, type WantedLimits } from './limits.js'
import { type InjectRule, type IoType, isDebugEvent, type Rules } from './rules.js'

const passedZeroFlags = ReqFlags.fua | ReqFlags.mayUnmap | ReqFlags.noFallback

interface Suspended {
  readonly tag: string
  readonly resume: () => void
}

export interface BlkdebugSettings {
  readonly limits: WantedLimits
  /** `Perm` bits to take on the image, and not to share, whatever the parents need. */
  readonly takePermissions: number
  readonly unsharePermissions: number
  /** Path of the configuration file, as given. */
  readonly config: string
  /** Whether the configuration file and the image say everything. */
  readonly plain: boolean
}

/** An open blkdebug node: requests pass to the image unless a rule stands in their way. */
export class BlkdebugState implements DriverState, DirectPath, FlushPath, DebugHooks {
  readonly direct = this
  readonly flushPath = this
  readonly debug = this
  readonly variableLength = true
  readonly supportedWriteFlags: number
  readonly supportedZeroFlags: number
  readonly #node: BlockNode
  readonly #image: BlockChild
  readonly #rules: Rules
  readonly #settings: BlkdebugSettings
  readonly #suspended: Suspended[] = []

  constructor(node: BlockNode, image: BlockChild, rules: Rules, settings: BlkdebugSettings) {
    this.#node = node
    this.#image = image
    this.#rules = rules
    this.#settings = settings
    this.supportedWriteFlags = ReqFlags.writeUnchanged | (ReqFlags.fua & image.node.supportedWriteFlags)
    this.supportedZeroFlags = ReqFlags.writeUnchanged | (passedZeroFlags & image.node.supportedZeroFlags)
    rules.enter('none')
  }

  get length(): number {
    return this.#image.node.length
  }

  get hasZeroInit(): boolean {
    return hasZeroInit(this.#image.node)
  }

  refreshLimits(limits: BlockLimits): void {
    applyLimits(this.#settings.limits, limits)
  }

  childPermissions(child: BlockChild, perm: number, shared: number): { perm: number; shared: number } {
    const wanted = defaultChildPermissions(this.#node, child, perm, shared)
    return {
      perm: wanted.perm | this.#settings.takePermissions,
      shared: wanted.shared & ~this.#settings.unsharePermissions,
    }
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    return this.#guarded('read', offset, bytes, () =>
      this.#image.node.read(offset, bytes, buffer, bufferOffset, flags),
    )
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    return this.#guarded('write', offset, bytes, () =>
      this.#image.node.write(offset, bytes, buffer, bufferOffset, flags),
    )
  }

  /** Requests smaller than the alignment asked for are refused, so that the core's fallback is seen at work. */
  zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait {
    const { requestAlignment, zeroAlignment } = this.#node.limits
    if (bytes < Math.max(requestAlignment, zeroAlignment)) {
      return undefined
    }
    return this.#guarded('write-zeroes', offset, bytes, () => {
      out.bytes = bytes
      return this.#image.node.writeZeroes(offset, bytes, flags)
    })
  }

  discard(offset: number, bytes: number, out: RangeResult): Wait {
    if (bytes < this.#node.limits.discardAlignment) {
      return undefined
    }
    return this.#guarded('discard', offset, bytes, () => {
      out.bytes = bytes
      return this.#image.node.discard(offset, bytes)
    })
  }

  status(offset: number, bytes: number, _want: 'zero' | 'allocation', out: ExtentSink): Wait {
    return this.#guarded('block-status', offset, bytes, () => {
      out.data(bytes, this.#image.node, offset, ExtentFlags.raw)
      return undefined
    })
  }

  /** The core flushes the image afterwards. */
  flushToDisk(): Wait {
    return this.#guarded('flush', 0, 0, () => undefined)
  }

  #guarded(type: IoType, offset: number, bytes: number, pass: () => Wait): Wait {
    const rule = this.#rules.find(type, offset, bytes)
    if (rule === undefined || (rule.errno === 0 && rule.delay <= 0)) {
      return pass()
    }
    if (rule.immediately && rule.delay <= 0) {
      throw this.#error(rule, type, offset, bytes)
    }
    return this.#later(rule, type, offset, bytes, pass)
  }

  async #later(
    rule: InjectRule,
    type: IoType,
    offset: number,
    bytes: number,
    pass: () => Wait,
  ): Promise<void> {
    await new Promise<void>((resolve) => {
      setTimeout(resolve, Math.max(0, rule.delay) / 1e6)
    })
    if (rule.errno !== 0) {
      throw this.#error(rule, type, offset, bytes)
    }
    await pass()
  }

  #error(rule: InjectRule, operation: string, offset: number, bytes: number): Error {
    return ioError(errnoName(Math.abs(rule.errno)), { node: this.#node.name, operation, offset, bytes })
  }

  event(name: DebugEvent): Wait {
    const tags = this.#rules.enter(name)
    return tags === undefined ? undefined : this.#suspend(tags)
  }

  async #suspend(tags: readonly string[]): Promise<void> {
    const stops = tags.map(
      (tag) =>
        new Promise<void>((resolve) => {
          this.#suspended.unshift({ tag, resume: resolve })
        }),
    )
    for (const tag of tags) {
      this.#node.host.print?.(`blkdebug: Suspended request '${tag}'`)
    }
    await Promise.all(stops)
  }

  breakpoint(event: string, tag: string): void {
    if (!isDebugEvent(event)) {
      throw blockError('ENOENT', `Could not set a breakpoint: No such file or directory`)
    }
    this.#rules.add(event, { action: 'suspend', state: 0, tag })
  }

  resume(tag: string): void {
    if (!this.#resumeAll(tag, true)) {
      throw ioError('ENOENT')
    }
  }

  removeBreakpoint(tag: string): void {
    const forgotten = this.#rules.removeBreakpoints(tag)
    if (!this.#resumeAll(tag, false) && !forgotten) {
      throw ioError('ENOENT')
    }
  }

  isSuspended(tag: string): boolean {
    return this.#suspended.some((one) => one.tag === tag)
  }

  #resumeAll(tag: string, onlyOne: boolean): boolean {
    let found = false
    for (const one of this.#suspended.filter((suspended) => suspended.tag === tag)) {
      if (onlyOne && found) {
        break
      }
      found = true
      this.#suspended.splice(this.#suspended.indexOf(one), 1)
      this.#node.host.print?.(`blkdebug: Resuming request '${tag}'`)
      one.resume()
    }
    return found
  }

  async truncate(length: number, how: TruncateOptions): Promise<void> {
    await truncateNode(this.#image.node, length, how)
  }

  /** A plain name says all if nothing but a configuration file was given. */
  exactFilename(): string | undefined {
    const image = this.#image.node.exactFilename
    return image === '' || !this.#settings.plain ? undefined : `blkdebug:${this.#settings.config}:${image}`
  }

  prepareReopen(): ReopenPlan {
    return nothingToReopen
  }

  close(): Wait {
    return undefined
  }
}
