import type { FileAlignment, FileKind, FileStat, HostFile } from '../../../host/index.js'
import { type Maybe, settleAll, type Wait } from '../../../sched/index.js'
import { checkRange, type NodeFile, nodeFileOf, type OnThread } from '../file.js'
import { DeviceIoctl, Fallocate } from '../space.js'
import { Command, notPossible } from './ring.js'
import type { ThreadRequest } from './thread.js'

/** Largest transfer handed to a thread at once, bytes. */
const pieceBytes = 1 << 20

/** What a file needs of the thread that it is on. */
export interface Submitter {
  submit(request: ThreadRequest): Promise<number>
}

/** An open file whose system calls a thread makes. */
export class ThreadFile implements HostFile, OnThread {
  readonly base: NodeFile
  readonly #thread: Submitter
  #inFlight = 0
  readonly #idle: (() => void)[] = []

  constructor(thread: Submitter, base: NodeFile) {
    this.#thread = thread
    this.base = base
  }

  get path(): string {
    return this.base.path
  }

  get kind(): FileKind {
    return this.base.kind
  }

  get writable(): boolean {
    return this.base.writable
  }

  get alignment(): FileAlignment {
    return this.base.alignment
  }

  get canLock(): boolean {
    return this.base.canLock
  }

  async #submit(
    command: number,
    offset: number,
    length: number,
    more: Partial<ThreadRequest> = {},
  ): Promise<number> {
    this.#inFlight++
    try {
      return await this.#thread.submit({
        command,
        fd: this.base.fd,
        offset,
        length,
        extra: 0,
        extraOffset: 0,
        dataBytes: 0,
        ...more,
      })
    } finally {
      if (--this.#inFlight === 0) {
        for (const resolve of this.#idle.splice(0)) {
          resolve()
        }
      }
    }
  }

  async #possible(result: Promise<number>): Promise<boolean> {
    return !Object.is(await result, notPossible)
  }

  async #done(result: Promise<number>): Promise<void> {
    await result
  }

  /** Cuts a transfer into pieces that leave room for others. */
  async #pieces(bytes: number, piece: (done: number, length: number) => Promise<number>): Promise<void> {
    if (bytes <= pieceBytes) {
      await piece(0, bytes)
      return
    }
    const all: Promise<void>[] = []
    for (let done = 0; done < bytes; done += pieceBytes) {
      all.push(this.#done(piece(done, Math.min(pieceBytes, bytes - done))))
    }
    await settleAll(all)
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    checkRange(offset, bytes, buffer, bufferOffset)
    const extra = this.alignment.request
    return this.#pieces(bytes, (done, length) =>
      this.#submit(Command.read, offset + done, length, {
        extra,
        dataBytes: length,
        drain: (arena, place) => {
          buffer.set(arena.subarray(place, place + length), bufferOffset + done)
        },
      }),
    )
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    checkRange(offset, bytes, buffer, bufferOffset)
    return this.#pieces(bytes, (done, length) => {
      const from = bufferOffset + done
      return this.#submit(Command.write, offset + done, length, {
        dataBytes: length,
        fill: (arena, place) => {
          arena.set(buffer.subarray(from, from + length), place)
        },
      })
    })
  }

  sync(): Wait {
    return this.#done(this.#submit(Command.sync, 0, 0))
  }

  truncate(length: number): Wait {
    return this.#done(this.#submit(Command.truncate, 0, length))
  }

  #fallocate(mode: number, offset: number, bytes: number): Maybe<boolean> {
    return bytes === 0 || this.#possible(this.#submit(Command.fallocate, offset, bytes, { extra: mode }))
  }

  #deviceRange(request: number, offset: number, bytes: number): Maybe<boolean> {
    return bytes === 0 || this.#possible(this.#submit(Command.deviceRange, offset, bytes, { extra: request }))
  }

  allocate(offset: number, bytes: number): Maybe<boolean> {
    return this.kind === 'regular' && this.#fallocate(Fallocate.allocate, offset, bytes)
  }

  punchHole(offset: number, bytes: number): Maybe<boolean> {
    return this.#fallocate(Fallocate.punchHole, offset, bytes)
  }

  zeroRange(offset: number, bytes: number): Maybe<boolean> {
    return this.kind === 'block'
      ? this.#deviceRange(DeviceIoctl.zeroOut, offset, bytes)
      : this.#fallocate(Fallocate.zeroRange, offset, bytes)
  }

  discardDevice(offset: number, bytes: number): Maybe<boolean> {
    return this.kind === 'block' && this.#deviceRange(DeviceIoctl.discard, offset, bytes)
  }

  copyTo(offset: number, target: HostFile, targetOffset: number, bytes: number): Maybe<number | undefined> {
    const to = nodeFileOf(target)
    if (to?.kind !== 'regular' || this.kind !== 'regular') {
      return undefined
    }
    return this.#submit(Command.copyRange, offset, bytes, { extra: to.fd, extraOffset: targetOffset }).then(
      (result) => (Object.is(result, notPossible) ? undefined : result),
    )
  }

  stat(): FileStat {
    return this.base.stat()
  }

  size(): number {
    return this.base.size()
  }

  seekData(offset: number): number | undefined {
    return this.base.seekData(offset)
  }

  seekHole(offset: number): number | undefined {
    return this.base.seekHole(offset)
  }

  setNoCopyOnWrite(): void {
    this.base.setNoCopyOnWrite()
  }

  setExtentSizeHint(bytes: number): boolean {
    return this.base.setExtentSizeHint(bytes)
  }

  dropCache(offset: number, bytes: number): void {
    this.base.dropCache(offset, bytes)
  }

  setLock(start: number, length: number, mode: 'shared' | 'exclusive' | 'none'): boolean {
    return this.base.setLock(start, length, mode)
  }

  lockConflicts(start: number, length: number, mode: 'shared' | 'exclusive'): boolean {
    return this.base.lockConflicts(start, length, mode)
  }

  /** Once nothing is in flight: the descriptor's number may be another file's right after. */
  close(): Wait {
    if (this.#inFlight === 0) {
      return this.base.close()
    }
    return new Promise<void>((resolve) => {
      this.#idle.push(resolve)
    }).then(() => this.base.close())
  }
}
