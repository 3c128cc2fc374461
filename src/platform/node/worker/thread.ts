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
import { arenaChunk, notPossible, Ring, type RingCommand, ringSlots } from './ring.js'

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

/** Not in the library's types of this language version, but in every runtime that is supported. */
const { waitAsync } = Atomics as unknown as {
  waitAsync(
    counters: Int32Array,
    index: number,
    value: number,
  ): { async: boolean; value: Promise<unknown> | string }
}

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
  #submitted = 0
  #completed = 0
  #pumping = false
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
      if (this.#dead) {
        reject(ioError('EIO'))
        return
      }
      if (this.#inFlight.length === 0 && this.#queue.length === 0) {
        // Someone waits for the result, so the process must not end before it is there.
        this.#worker.ref()
      }
      this.#queue.push({ request, resolve, reject })
      this.#send()
    })
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
        next.reject(error)
        continue
      }
      this.#chunkUsed.fill(1, firstChunk, firstChunk + chunks)
      this.#ring.put(this.#submitted, { ...next.request, place })
      this.#inFlight.push({ ...next, firstChunk, chunks, place })
      this.#submitted = (this.#submitted + 1) | 0
    }
    if (this.#submitted !== before) {
      Atomics.store(this.#ring.counters, Ring.submitted, this.#submitted)
      Atomics.notify(this.#ring.counters, Ring.submitted)
    }
    if (!this.#pumping && this.#inFlight.length > 0) {
      this.#pumping = true
      void this.#pump()
    }
    this.#restIfIdle()
  }

  /** First of `chunks` free chunks in a row; -1 if there are none. */
  #room(chunks: number): number {
    let run = 0
    for (let at = 0; at < ringSlots; at++) {
      if (run === chunks) {
        return at - run
      }
      run = this.#chunkUsed[at] === 0 ? run + 1 : 0
    }
    return run >= chunks ? ringSlots - chunks : -1
  }

  /** Takes results for as long as something is in flight. */
  async #pump(): Promise<void> {
    while (this.#inFlight.length > 0) {
      if (Atomics.load(this.#ring.counters, Ring.completed) === this.#completed) {
        const wait = waitAsync(this.#ring.counters, Ring.completed, this.#completed)
        if (wait.async) {
          await wait.value
        }
        continue
      }
      this.#finish()
    }
    this.#pumping = false
  }

  #finish(): void {
    const done = this.#inFlight.shift()
    if (done === undefined) {
      return
    }
    const result = this.#ring.result(this.#completed)
    this.#completed = (this.#completed + 1) | 0
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
    for (const { reject } of [...this.#inFlight.splice(0), ...this.#queue.splice(0)]) {
      reject(ioError('EIO'))
    }
    this.#restIfIdle()
  }
}

/** Whether a command's result says that it was carried out. */
export function wasPossible(result: number): boolean {
  return !Object.is(result, notPossible)
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
