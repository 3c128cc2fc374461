import {
  type BlockChild,
  type BlockNode,
  type DriverState,
  defaultChildPermissions,
  Perm,
} from '../../../graph/index.js'
import {
  type BlockLimits,
  type DirectPath,
  ExtentFlags,
  type ExtentSink,
  type FlushPath,
  type RangeResult,
  ReqFlags,
} from '../../../io/index.js'
import { attempt, Mutex, type Wait } from '../../../sched/index.js'
import { EntryFlags, encodeEntry, encodeSuperblock } from './format.js'

/** Where a log goes on. */
export interface LogPosition {
  /** Bytes. */
  readonly sectorSize: number
  readonly entries: number
  /** The first free log sector. */
  readonly sector: number
}

/** An open blklogwrites node: whatever changes the file is also appended to the log. */
export class BlklogwritesState implements DriverState, DirectPath, FlushPath {
  readonly direct = this
  readonly flushPath = this
  readonly variableLength = true
  readonly supportedWriteFlags = ReqFlags.fua
  readonly supportedZeroFlags: number
  readonly #node: BlockNode
  readonly #file: BlockChild
  readonly #log: BlockChild
  readonly #sectorSize: number
  /** Entries between two updates of the superblock. */
  readonly #interval: number
  /** Updates of the superblock go one after the other, so that the last one counts most. */
  readonly #superblock = new Mutex()
  #entries: number
  #sector: number

  constructor(node: BlockNode, file: BlockChild, log: BlockChild, position: LogPosition, interval: number) {
    this.#node = node
    this.#file = file
    this.#log = log
    this.#sectorSize = position.sectorSize
    this.#entries = position.entries
    this.#sector = position.sector
    this.#interval = interval
    this.supportedZeroFlags = file.node.supportedZeroFlags & (ReqFlags.mayUnmap | ReqFlags.noFallback)
  }

  get length(): number {
    return this.#file.node.length
  }

  refreshLimits(limits: BlockLimits): void {
    limits.requestAlignment = this.#sectorSize
  }

  /** The log is written only while its owner may write. */
  childPermissions(child: BlockChild, perm: number, shared: number): { perm: number; shared: number } {
    if (child !== this.#log && child.name !== 'log') {
      return defaultChildPermissions(this.#node, child, perm, shared)
    }
    const write = this.#node.readOnly ? 0 : Perm.write | Perm.resize
    return { perm: Perm.consistentRead | write, shared: Perm.consistentRead | Perm.writeUnchanged }
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    return this.#file.node.read(offset, bytes, buffer, bufferOffset, flags)
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    const data = buffer.subarray(bufferOffset, bufferOffset + bytes)
    const fua = (flags & ReqFlags.fua) === 0 ? 0 : EntryFlags.fua
    return this.#both(fua, offset, bytes, data, 0, () =>
      this.#file.node.write(offset, bytes, buffer, bufferOffset, flags),
    )
  }

  zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait {
    out.bytes = bytes
    return this.#both(0, offset, bytes, undefined, bytes, () =>
      this.#file.node.writeZeroes(offset, bytes, flags),
    )
  }

  discard(offset: number, bytes: number, out: RangeResult): Wait {
    out.bytes = bytes
    return this.#both(EntryFlags.discard, offset, bytes, undefined, 0, () =>
      this.#file.node.discard(offset, bytes),
    )
  }

  flushToDisk(): Wait {
    return this.#both(EntryFlags.flush, 0, 0, undefined, 0, () => this.#file.node.flush())
  }

  status(offset: number, bytes: number, _want: 'zero' | 'allocation', out: ExtentSink): Wait {
    out.data(bytes, this.#file.node, offset, ExtentFlags.raw)
    return undefined
  }

  /** Changes the file and logs it; its own failure counts more than the log's. */
  async #both(
    flags: number,
    offset: number,
    bytes: number,
    data: Uint8Array | undefined,
    zeroBytes: number,
    change: () => Wait,
  ): Promise<void> {
    // The place in the log is taken first: the order of entries is that of the requests.
    const size = this.#sectorSize
    const at = this.#sector * size
    this.#sector += 1 + Math.ceil(((data?.length ?? 0) + zeroBytes) / size)
    this.#entries++
    const entry = { sector: Math.floor(offset / size), sectors: Math.floor(bytes / size), flags }
    const due = (flags & EntryFlags.flush) !== 0 || this.#entries % this.#interval === 0
    const logged = this.#append(at, entry, data, zeroBytes, due)
    const [changed, log] = await Promise.allSettled([attempt(change), logged])
    for (const result of [changed, log]) {
      if (result.status === 'rejected') {
        throw result.reason
      }
    }
  }

  async #append(
    at: number,
    entry: { sector: number; sectors: number; flags: number },
    data: Uint8Array | undefined,
    zeroBytes: number,
    due: boolean,
  ): Promise<void> {
    const size = this.#sectorSize
    const record = new Uint8Array(size + (data?.length ?? 0))
    encodeEntry(entry, record)
    record.set(data ?? [], size)
    const log = this.#log.node
    await log.write(at, record.length, record, 0, 0)
    if (zeroBytes > 0) {
      await log.writeZeroes(at + size, zeroBytes, 0)
    }
    if (due) {
      await this.#superblock.run(async () => {
        const block = encodeSuperblock({ entries: this.#entries, sectorSize: size })
        await log.write(0, size, block, 0, 0)
        await log.flush()
      })
    }
  }

  close(): Wait {
    return undefined
  }
}
