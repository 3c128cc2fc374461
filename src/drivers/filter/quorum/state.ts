import { blockError, codeOf, ioError, strerror } from '../../../errors/index.js'
import {
  attachChild,
  type BlockChild,
  type BlockNode,
  type DriverState,
  detachChild,
  deviceOrNodeName,
  Perm,
  Role,
} from '../../../graph/index.js'
import {
  ChainStatus,
  chainStatus,
  type DirectPath,
  ExtentFlags,
  type ExtentSink,
  type FlushPath,
  type RangeResult,
  ReqFlags,
} from '../../../io/index.js'
import { attempt, settleAll, type Wait } from '../../../sched/index.js'
import { commonError, type Version, versionsOf, winnerOf } from './vote.js'

export interface QuorumSettings {
  /** Children that must agree. */
  readonly threshold: number
  /** Reads ask one child after the other until one answers; else all of them, and vote. */
  readonly fifo: boolean
  /** A difference between the two children ends the program. */
  readonly verify: boolean
  /** Children that were outvoted are corrected. */
  readonly rewrite: boolean
}

type Operation = 'read' | 'write' | 'flush'

const sectorBytes = 512

/** An open quorum node: writes go to all children, reads are put to the vote. */
export class QuorumState implements DriverState, DirectPath, FlushPath {
  readonly direct = this
  readonly flushPath = this
  readonly flushesChildren = true
  readonly supportedWriteFlags = ReqFlags.writeUnchanged
  readonly #node: BlockNode
  readonly #children: BlockChild[]
  readonly #settings: QuorumSettings
  #nextChild: number

  constructor(node: BlockNode, children: BlockChild[], settings: QuorumSettings) {
    this.#node = node
    this.#children = children
    this.#settings = settings
    this.#nextChild = children.length
  }

  get length(): number {
    return this.#children[0]?.node.length ?? 0
  }

  get supportedZeroFlags(): number {
    let flags: number = ReqFlags.mayUnmap | ReqFlags.noFallback
    for (const child of this.#children) {
      flags &= child.node.supportedZeroFlags
    }
    return flags | ReqFlags.writeUnchanged
  }

  /** Children of a vote must not be changed or resized by others, or they would come to differ. */
  childPermissions(_child: BlockChild, perm: number, shared: number): { perm: number; shared: number } {
    return {
      perm: this.#settings.rewrite ? perm | Perm.write : perm,
      shared: shared & (Perm.consistentRead | Perm.writeUnchanged),
    }
  }

  async read(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Promise<void> {
    if (this.#settings.fifo) {
      await this.#readFirst(offset, bytes, buffer, bufferOffset, flags)
      return
    }
    const copies = this.#children.map(() => new Uint8Array(bytes))
    const good = await this.#onAll('read', offset, bytes, (node, index) =>
      node.read(offset, bytes, copies[index] as Uint8Array, 0, flags),
    )
    const { sameBytes } = this.#node.host
    if (this.#settings.verify) {
      this.#verify(offset, bytes, copies)
    }
    const answers = good.map((index) => [index, copies[index] as Uint8Array] as const)
    const versions = versionsOf(answers, (a, b) => sameBytes(a, 0, b, 0, bytes))
    const winner = winnerOf(versions)
    if (winner === undefined || winner.voters.length < this.#settings.threshold) {
      this.#reportFailure(offset, bytes)
      throw ioError('EIO', { node: this.#node.name, operation: 'read', offset, bytes })
    }
    buffer.set(winner.value, bufferOffset)
    if (versions.length > 1) {
      await this.#correct(winner, versions, offset, bytes)
    }
  }

  async #readFirst(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Promise<void> {
    let failure: unknown
    for (const child of this.#children) {
      try {
        await attempt(() => child.node.read(offset, bytes, buffer, bufferOffset, flags))
        return
      } catch (error) {
        this.#reportBad('read', offset, bytes, child, error)
        failure = error
      }
    }
    throw failure
  }

  #verify(offset: number, bytes: number, copies: readonly Uint8Array[]): void {
    const [a, b] = copies
    if (a === undefined || b === undefined || this.#node.host.sameBytes(a, 0, b, 0, bytes)) {
      return
    }
    const at = offset + a.findIndex((byte, i) => byte !== b[i])
    const line = `quorum: offset=${offset} bytes=${bytes} contents mismatch at offset ${at}`
    this.#node.host.abort?.(line)
    throw blockError('EIO', line, { at: { node: this.#node.name, operation: 'read', offset, bytes } })
  }

  /** Tells who was outvoted and, if wanted, writes there what the others have. */
  async #correct(
    winner: Version<Uint8Array>,
    versions: readonly Version<Uint8Array>[],
    offset: number,
    bytes: number,
  ): Promise<void> {
    const rewrites: Promise<void>[] = []
    for (const version of versions) {
      for (const index of version === winner ? [] : version.voters) {
        const child = this.#children[index]
        if (child === undefined) {
          continue
        }
        this.#reportBad('read', offset, bytes, child, undefined)
        if (this.#settings.rewrite) {
          // That the read was answered does not depend on whether the correction works.
          const write = attempt(() => child.node.write(offset, bytes, winner.value, 0, 0))
          rewrites.push(write.catch(() => undefined))
        }
      }
    }
    await settleAll(rewrites)
  }

  async write(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Promise<void> {
    await this.#onAll('write', offset, bytes, (node) =>
      node.write(offset, bytes, buffer, bufferOffset, flags),
    )
  }

  async zero(offset: number, bytes: number, flags: number, out: RangeResult): Promise<void> {
    await this.#onAll('write', offset, bytes, (node) => node.writeZeroes(offset, bytes, flags))
    out.bytes = bytes
  }

  async flushToOs(): Promise<void> {
    await this.#onAll('flush', 0, 0, (node) => node.flush())
  }

  /**
   * Does the same on all children and tells of those that failed.
   *
   * @returns the indices of those that did not
   * @throws the most frequent error if fewer than the threshold succeeded
   */
  async #onAll(
    operation: Operation,
    offset: number,
    bytes: number,
    run: (node: BlockNode, index: number) => Wait,
  ): Promise<number[]> {
    const children = [...this.#children]
    const results = await Promise.allSettled(
      children.map((child, index) => attempt(() => run(child.node, index))),
    )
    const good: number[] = []
    const errors: unknown[] = []
    for (const [index, result] of results.entries()) {
      const child = children[index]
      if (result.status === 'fulfilled') {
        good.push(index)
      } else if (child !== undefined) {
        errors.push(result.reason)
        this.#reportBad(operation, offset, bytes, child, result.reason)
      }
    }
    if (good.length < this.#settings.threshold) {
      if (operation !== 'flush') {
        this.#reportFailure(offset, bytes)
      }
      throw ioError(commonError(errors), { node: this.#node.name, operation, offset, bytes })
    }
    return good
  }

  #reportBad(operation: Operation, offset: number, bytes: number, child: BlockChild, error: unknown): void {
    this.#node.layer.events.emit('QUORUM_REPORT_BAD', {
      type: operation,
      ...(error === undefined ? {} : { error: strerror(codeOf(error)) }),
      'node-name': child.node.name,
      ...sectors(offset, bytes),
    })
  }

  #reportFailure(offset: number, bytes: number): void {
    this.#node.layer.events.emit('QUORUM_FAILURE', {
      reference: deviceOrNodeName(this.#node),
      ...sectors(offset, bytes),
    })
  }

  /** Zero where all children are; the largest extent of data counts, but the smallest of zeroes. */
  async status(offset: number, bytes: number, want: 'zero' | 'allocation', out: ExtentSink): Promise<void> {
    let zero = bytes
    let data = 0
    for (const child of this.#children) {
      const status = new ChainStatus()
      try {
        await chainStatus(child.node, undefined, offset, bytes, want, status)
      } catch (error) {
        this.#reportBad('read', offset, bytes, child, error)
        data = bytes
        break
      }
      if (status.zero) {
        zero = Math.min(zero, status.bytes)
      } else {
        data = Math.max(data, status.bytes)
      }
    }
    if (data > 0) {
      out.data(data, this.#node, offset, ExtentFlags.nowhere)
    } else {
      out.zero(zero)
    }
  }

  get replaceable(): readonly BlockNode[] {
    return this.#children.map((child) => child.node)
  }

  async addChild(node: BlockNode): Promise<void> {
    if (this.#settings.verify) {
      throw blockError('EINVAL', 'Cannot add a child to a quorum in blkverify mode')
    }
    this.#children.push(await attachChild(this.#node, node, `children.${this.#nextChild}`, Role.data))
    this.#nextChild++
  }

  async removeChild(child: BlockChild): Promise<void> {
    const { threshold } = this.#settings
    if (this.#children.length <= threshold) {
      throw blockError(
        'EINVAL',
        `The number of children cannot be lower than the vote threshold ${threshold}`,
      )
    }
    this.#children.splice(this.#children.indexOf(child), 1)
    await detachChild(child)
  }

  close(): Wait {
    return undefined
  }
}

function sectors(offset: number, bytes: number): { 'sector-num': number; 'sectors-count': number } {
  const first = Math.floor(offset / sectorBytes)
  return { 'sector-num': first, 'sectors-count': Math.ceil((offset + bytes) / sectorBytes) - first }
}
