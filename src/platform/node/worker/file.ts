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
  run(request: ThreadRequest): Promise<void>
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

  readonly #settled = (): void => {
    if (--this.#inFlight === 0) {
      for (const resolve of this.#idle.splice(0)) {
        resolve()
      }
    }
  }

  #request(command: number, offset: number, length: number, extra = 0, extraOffset = 0): ThreadRequest {
    this.#inFlight++
    const { fd } = this.base
    return { command, fd, offset, length, extra, extraOffset, dataBytes: 0, settled: this.#settled }
  }

  async #possible(result: Promise<number>): Promise<boolean> {
    return !Object.is(await result, notPossible)
  }

  /** Cuts a transfer into pieces that leave room for others. */
  #pieces(bytes: number, piece: (done: number, length: number) => Promise<void>): Promise<void> {
    if (bytes <= pieceBytes) {
      return piece(0, bytes)
    }
    const all: Promise<void>[] = []
    for (let done = 0; done < bytes; done += pieceBytes) {
      all.push(piece(done, Math.min(pieceBytes, bytes - done)))
    }
    return settleAll(all)
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    checkRange(offset, bytes, buffer, bufferOffset)
    const granule = this.alignment.request
    return this.#pieces(bytes, (done, length) =>
      this.#thread.run({
        ...this.#request(Command.read, offset + done, length, granule),
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
      return this.#thread.run({
        ...this.#request(Command.write, offset + done, length),
        dataBytes: length,
        fill: (arena, place) => {
          arena.set(buffer.subarray(from, from + length), place)
        },
      })
    })
  }

  sync(): Wait {
    return this.#thread.run(this.#request(Command.sync, 0, 0))
  }

  truncate(length: number): Wait {
    return this.#thread.run(this.#request(Command.truncate, 0, length))
  }

  #fallocate(mode: number, offset: number, bytes: number): Maybe<boolean> {
    return (
      bytes === 0 ||
      this.#possible(this.#thread.submit(this.#request(Command.fallocate, offset, bytes, mode)))
    )
  }

  #deviceRange(request: number, offset: number, bytes: number): Maybe<boolean> {
    return (
      bytes === 0 ||
      this.#possible(this.#thread.submit(this.#request(Command.deviceRange, offset, bytes, request)))
    )
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
    return this.#thread
      .submit(this.#request(Command.copyRange, offset, bytes, to.fd, targetOffset))
      .then((result) => (Object.is(result, notPossible) ? undefined : result))
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
