import { existsSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { blockError, ioError } from '../../../errors/index.js'
import type { HostFile, HostThread, HostThreads } from '../../../host/index.js'
import type { Wait } from '../../../sched/index.js'
import { fromErrno } from '../errors.js'
import { nodeFileOf } from '../file.js'
import { libc } from '../libc.js'
import { addressOf } from '../memory.js'
import { ThreadFile } from './file.js'
import { arenaChunk, Ring, type RingCommand, ringSlots } from './ring.js'

/** Alignment of the arena, which is enough for O_DIRECT. Bytes. */
const arenaAlignment = 4096

/** A command with what happens to its data on this side. */
export interface ThreadRequest extends Omit<RingCommand, 'place'> {
  /** Bytes of data that it needs room for; at most the whole arena. */
  readonly dataBytes: number
  /** Puts data there, before the command runs. */
  readonly fill?: (arena: Uint8Array, place: number) => void
  /** Takes data from there, after it succeeded. */
  readonly drain?: (arena: Uint8Array, place: number) => void
  /** Called when it is over, before its result is told. */
  readonly settled: () => void
}

interface InFlight {
  readonly request: ThreadRequest
  readonly firstChunk: number
  readonly chunks: number
  readonly place: number
  resolve(result: number): void
  reject(error: unknown): void
}

type Waiting = Pick<InFlight, 'request' | 'resolve' | 'reject'>

/** A worker thread that makes system calls. While it has nothing to do it does not keep the process alive. */
export class NodeThread implements HostThread {
  readonly name: string
  id: number | undefined = undefined
  readonly #worker: Worker
  readonly #ring: Ring
  /** Where the arena begins in the shared memory, bytes. */
  readonly #base: number
  readonly #chunkUsed = new Uint8Array(ringSlots)
  readonly #inFlight: InFlight[] = []
  readonly #queue: Waiting[] = []
  readonly #idle: (() => void)[] = []
  #nextChunk = 0
  #submitted = 0
  #completed = 0
  #dead = false

  static async start(name: string, script: URL): Promise<NodeThread> {
    const thread = new NodeThread(name, script)
    await thread.#started()
    return thread
  }

  private constructor(name: string, script: URL) {
    this.name = name
    this.#ring = Ring.create(arenaAlignment)
    const c = libc()
    const excess = c === undefined ? 0 : addressOf(c, this.#ring.data) % arenaAlignment
    this.#base = excess === 0 ? 0 : arenaAlignment - excess
    this.#worker = new Worker(script, { workerData: this.#ring.memory, name })
  }

  async #started(): Promise<void> {
    this.id = await new Promise<number | undefined>((resolve, reject) => {
      this.#worker.once('message', resolve)
      this.#worker.once('error', reject)
    })
    this.#worker.unref()
    this.#worker.on('message', () => {
      this.#collect()
    })
    this.#collect()
    this.#worker.once('error', () => {
      this.#die()
    })
    this.#worker.once('exit', () => {
      this.#die()
    })
  }

  adopt(file: HostFile): HostFile | undefined {
    const base = nodeFileOf(file)
    return base === undefined ? undefined : new ThreadFile(this, base)
  }

  /** Runs a command behind all earlier ones; NaN if it is not possible here. @throws BlockError */
  submit(request: ThreadRequest): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#enqueue({ request, resolve, reject })
    })
  }

  /** {@link submit} of a command that has no result. */
  run(request: ThreadRequest): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#enqueue({ request, resolve: () => resolve(), reject })
    })
  }

  #enqueue(waiting: Waiting): void {
    if (this.#dead) {
      waiting.request.settled()
      waiting.reject(ioError('EIO'))
      return
    }
    if (this.#inFlight.length === 0 && this.#queue.length === 0) {
      // Someone waits for the result, so the process must not end before it is there.
      this.#worker.ref()
    }
    this.#queue.push(waiting)
    this.#send()
  }

  /** Moves what fits from the queue to the ring. */
  #send(): void {
    const before = this.#submitted
    for (;;) {
      const [next] = this.#queue
      if (next === undefined || this.#inFlight.length === ringSlots) {
        break
      }
      const chunks = Math.ceil(next.request.dataBytes / arenaChunk)
      const firstChunk = this.#room(chunks)
      if (firstChunk < 0) {
        break
      }
      this.#queue.shift()
      const place = this.#base + firstChunk * arenaChunk
      try {
        next.request.fill?.(this.#ring.data, place)
      } catch (error) {
        next.request.settled()
        next.reject(error)
        continue
      }
      this.#chunkUsed.fill(1, firstChunk, firstChunk + chunks)
      this.#ring.put(this.#submitted, next.request, place)
      this.#inFlight.push({ ...next, firstChunk, chunks, place })
      this.#submitted = (this.#submitted + 1) | 0
    }
    if (this.#submitted !== before) {
      Atomics.store(this.#ring.counters, Ring.submitted, this.#submitted)
      if (Atomics.load(this.#ring.counters, Ring.asleep) === 1) {
        Atomics.notify(this.#ring.counters, Ring.submitted)
      }
    }
    this.#restIfIdle()
  }

  /** First of `chunks` free chunks in a row, looked for behind those given out last; -1 if there are none. */
  #room(chunks: number): number {
    if (chunks === 0) {
      return 0
    }
    const first = this.#roomFrom(this.#nextChunk, chunks)
    const found = first >= 0 ? first : this.#roomFrom(0, chunks)
    this.#nextChunk = found + chunks
    return found
  }

  #roomFrom(from: number, chunks: number): number {
    let run = 0
    for (let at = from; at < ringSlots; at++) {
      run = this.#chunkUsed[at] === 0 ? run + 1 : 0
      if (run === chunks) {
        return at + 1 - chunks
      }
    }
    return -1
  }

  /** Takes the results there are, and asks to be woken for those to come. */
  #collect(): void {
    const { counters } = this.#ring
    for (;;) {
      while (Atomics.load(counters, Ring.completed) !== this.#completed) {
        this.#finish()
      }
      Atomics.store(counters, Ring.waiting, 1)
      // A result that came before the thread could see that we wait has sent no message.
      if (Atomics.load(counters, Ring.completed) === this.#completed) {
        return
      }
      Atomics.store(counters, Ring.waiting, 0)
    }
  }

  #finish(): void {
    const done = this.#inFlight.shift()
    if (done === undefined) {
      return
    }
    const result = this.#ring.result(this.#completed)
    this.#completed = (this.#completed + 1) | 0
    done.request.settled()
    try {
      if (result < 0) {
        throw fromErrno(-result)
      }
      done.request.drain?.(this.#ring.data, done.place)
      done.resolve(result)
    } catch (error) {
      done.reject(error)
    }
    this.#chunkUsed.fill(0, done.firstChunk, done.firstChunk + done.chunks)
    this.#send()
  }

  #restIfIdle(): void {
    if (this.#inFlight.length === 0 && this.#queue.length === 0) {
      this.#worker.unref()
      for (const resolve of this.#idle.splice(0)) {
        resolve()
      }
    }
  }

  /** Settles when nothing is in flight. */
  idle(): Wait {
    if (this.#inFlight.length === 0 && this.#queue.length === 0) {
      return undefined
    }
    return new Promise((resolve) => {
      this.#idle.push(resolve)
    })
  }

  async stop(): Promise<void> {
    await this.idle()
    this.#dead = true
    await this.#worker.terminate()
  }

  /** The thread has ended although it should not: what it had taken on will never be answered. */
  #die(): void {
    this.#dead = true
    for (const { request, reject } of [...this.#inFlight.splice(0), ...this.#queue.splice(0)]) {
      request.settled()
      reject(ioError('EIO'))
    }
    this.#restIfIdle()
  }
}

/** Places of the thread's script beside the bundles that may ask for it. */
const scripts = ['./io-thread.js', '../io-thread.js']

function findScript(): URL {
  const found = scripts.map((path) => new URL(path, import.meta.url)).find((url) => existsSync(url))
  if (found === undefined) {
    throw blockError('ENOTSUP', 'I/O threads need the script io-thread.js, which is not there')
  }
  return found
}

/** Worker threads. */
export class NodeThreads implements HostThreads {
  readonly #script: URL | undefined

  /** @param script what the threads run, if it is not found beside the package */
  constructor(script: URL | undefined) {
    this.#script = script
  }

  async start(name: string): Promise<HostThread> {
    return await NodeThread.start(name, this.#script ?? findScript())
  }
}
