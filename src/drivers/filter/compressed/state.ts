import { ioError } from '../../../errors/index.js'
import type { DriverState } from '../../../graph/index.js'
import type { DirectPath, IoNode } from '../../../io/index.js'
import { Mutex, type Wait } from '../../../sched/index.js'
import type { Contents, StartPoint } from './start-points.js'

/** Decoded bytes are kept in blocks of this size, so many of them. */
const blockBytes = 1 << 20
const keptBlocks = 24

/** Decoding that goes on from where it is. */
interface Run {
  readonly pieces: AsyncGenerator<Uint8Array, void, void>
  /** Offset of the first byte that is not in a block yet. */
  position: number
  /** The rest of the last piece. */
  rest: Uint8Array
}

/** An open compressed file: blocks are decoded in order and kept for a while. */
export class CompressedState implements DriverState, DirectPath {
  readonly direct: DirectPath = this
  readonly length: number
  readonly #file: IoNode
  readonly #points: readonly StartPoint[]
  readonly #plain: boolean
  /** By number; the one used longest ago first. */
  readonly #kept = new Map<number, Uint8Array>()
  readonly #mutex = new Mutex()
  #run: Run | undefined

  /** @param plain nothing but the file's name says what the node is */
  constructor(file: IoNode, contents: Contents, plain: boolean) {
    this.#file = file
    this.#points = contents.points
    this.length = contents.length
    this.#plain = plain
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    for (let done = 0; done < bytes; ) {
      const number = Math.floor((offset + done) / blockBytes)
      const block = this.#kept.get(number)
      if (block === undefined) {
        return this.#readLater(offset + done, bytes - done, buffer, bufferOffset + done)
      }
      done += this.#take(number, block, offset + done, bytes - done, buffer, bufferOffset + done)
    }
    return undefined
  }

  #take(
    number: number,
    block: Uint8Array,
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
  ): number {
    this.#kept.delete(number)
    this.#kept.set(number, block)
    const from = offset - number * blockBytes
    const count = Math.min(bytes, blockBytes - from)
    const present = Math.max(0, Math.min(count, block.length - from))
    buffer.set(block.subarray(from, from + present), bufferOffset)
    // The last sector may be incomplete.
    buffer.fill(0, bufferOffset + present, bufferOffset + count)
    return count
  }

  async #readLater(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    for (let done = 0; done < bytes; ) {
      const number = Math.floor((offset + done) / blockBytes)
      const block = this.#kept.get(number) ?? (await this.#mutex.run(() => this.#block(number)))
      done += this.#take(number, block, offset + done, bytes - done, buffer, bufferOffset + done)
    }
  }

  /** Decodes up to and including a block. */
  async #block(number: number): Promise<Uint8Array> {
    const kept = this.#kept.get(number)
    if (kept !== undefined) {
      return kept
    }
    const start = number * blockBytes
    try {
      const run = this.#runTo(start)
      await skip(run, start)
      const block = new Uint8Array(Math.min(blockBytes, this.length - start))
      await fill(run, block)
      if (this.#kept.size >= keptBlocks) {
        const [oldest] = this.#kept.keys()
        this.#kept.delete(oldest as number)
      }
      this.#kept.set(number, block)
      return block
    } catch (error) {
      this.#stop()
      throw error
    }
  }

  /** The decoding that gets to `offset` soonest: the one that is under way, or one from a start point. */
  #runTo(offset: number): Run {
    let low = 0
    for (let high = this.#points.length; high - low > 1; ) {
      const middle = (low + high) >>> 1
      if ((this.#points[middle] as StartPoint).offset <= offset) {
        low = middle
      } else {
        high = middle
      }
    }
    const point = this.#points[low]
    if (point === undefined) {
      throw ioError('EIO', { node: this.#file.nodeName, operation: 'read', offset })
    }
    if (this.#run !== undefined && this.#run.position <= offset && this.#run.position >= point.offset) {
      return this.#run
    }
    this.#stop()
    this.#run = { pieces: point.decode(), position: point.offset, rest: new Uint8Array(0) }
    return this.#run
  }

  #stop(): void {
    void this.#run?.pieces.return().catch(() => undefined)
    this.#run = undefined
  }

  allocatedSize(): number {
    return this.#file.length
  }

  exactFilename(): string | undefined {
    const { filename } = this.#file as IoNode & { filename?: string }
    return this.#plain && filename !== undefined && !filename.startsWith('json:')
      ? `compressed:${filename}`
      : undefined
  }

  close(): Wait {
    this.#stop()
    this.#kept.clear()
    return undefined
  }
}

/** Makes sure that `run.rest` is not empty. @throws BlockError EIO if there is no more */
async function more(run: Run): Promise<void> {
  while (run.rest.length === 0) {
    const next = await run.pieces.next()
    if (next.done === true) {
      throw ioError('EIO')
    }
    run.rest = next.value
  }
}

async function skip(run: Run, offset: number): Promise<void> {
  while (run.position < offset) {
    await more(run)
    const bytes = Math.min(run.rest.length, offset - run.position)
    run.rest = run.rest.subarray(bytes)
    run.position += bytes
  }
}

async function fill(run: Run, block: Uint8Array): Promise<void> {
  for (let filled = 0; filled < block.length; ) {
    await more(run)
    const bytes = Math.min(run.rest.length, block.length - filled)
    block.set(run.rest.subarray(0, bytes), filled)
    run.rest = run.rest.subarray(bytes)
    run.position += bytes
    filled += bytes
  }
}
