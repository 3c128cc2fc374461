import { blockError, codeOf, type ErrnoName, isBlockError, strerror } from '../errors/index.js'
import type { Backend } from '../graph/index.js'
import { ChainStatus, chainStatus } from '../io/index.js'
import { attempt, settleAll, TimeSlice } from '../sched/index.js'
import { type LongRun, throwIfAborted } from './long-run.js'
import { SectorComparer, SectorScanner, sectorBytes } from './sectors.js'

export interface CompareOptions extends LongRun {
  /** `-s`: sizes and block status must match too. */
  readonly strict?: boolean | undefined
  /** Names of the images in messages; default: the nodes' file names. */
  readonly labels?: readonly [string, string] | undefined
  /** Called when the sizes differ and the common part is equal, before the rest is looked at. */
  readonly onSizeMismatch?: (() => void) | undefined
}

/** Outcome of a comparison. Offsets are bytes and multiples of 512: contents are compared by sectors. */
export type CompareResult =
  | { readonly identical: true; readonly sizeMismatch: boolean }
  | {
      readonly identical: false
      readonly sizeMismatch: boolean
      readonly reason: 'content' | 'status'
      readonly offset: number
    }
  | { readonly identical: false; readonly sizeMismatch: true; readonly reason: 'size' }

/** The line that `qemu-img compare` prints when {@link CompareOptions.onSizeMismatch} is called. */
export const sizeMismatchWarning = 'Warning: Image size mismatch!'

/** The last line that `qemu-img compare` prints for a result. */
export function compareMessage(result: CompareResult): string {
  if (result.identical) {
    return 'Images are identical.'
  }
  switch (result.reason) {
    case 'size':
      return 'Strict mode: Image size mismatch!'
    case 'status':
      return `Strict mode: Offset ${result.offset} block status mismatch!`
    case 'content':
      return `Content mismatch at offset ${result.offset}!`
  }
}

/** The exit code of `qemu-img compare` for an error thrown by {@link compareImages}: 3 for status, 4 for read errors. */
export function compareErrorCode(error: unknown): 1 | 3 | 4 {
  const operation = isBlockError(error) ? error.at?.operation : undefined
  return operation === 'status' ? 3 : operation === 'read' ? 4 : 1
}

/** Bytes read from each image at a time. */
const chunkBytes = 2 * 1024 * 1024

/**
 * Compares the contents of two images; where one ends, the longer one must be zero.
 *
 * @throws BlockError `Sector allocation test failed for %s`, `Error while reading offset %lld of %s: …`.
 */
export async function compareImages(
  first: Backend,
  second: Backend,
  options: CompareOptions = {},
): Promise<CompareResult> {
  const labels = options.labels ?? [first.node.filename, second.node.filename]
  const sides = [new Side(first, labels[0]), new Side(second, labels[1])] as const
  const common = Math.min(first.length, second.length)
  const total = Math.max(first.length, second.length)
  const sizeMismatch = common !== total
  if (options.strict === true && sizeMismatch) {
    return { identical: false, sizeMismatch: true, reason: 'size' }
  }
  const run = new Comparison(sides, total, options)
  const failure = await run.compareCommon(common, options.strict === true)
  if (failure !== undefined) {
    return { identical: false, sizeMismatch, ...failure }
  }
  if (sizeMismatch) {
    options.onSizeMismatch?.()
    const longer = first.length > second.length ? sides[0] : sides[1]
    const offset = await run.checkZero(longer, common, total)
    if (offset !== undefined) {
      return { identical: false, sizeMismatch, reason: 'content', offset }
    }
  }
  options.progress?.(total, total)
  return { identical: true, sizeMismatch }
}

/** One of the two images: its status and a buffer of its contents. */
class Side {
  readonly image: Backend
  readonly label: string
  readonly status = new ChainStatus()
  readonly buffer = new Uint8Array(chunkBytes)
  readonly #scanner: SectorScanner

  constructor(image: Backend, label: string) {
    this.image = image
    this.label = label
    this.#scanner = new SectorScanner(this.buffer)
  }

  /** Where the extent that {@link status} describes ends, bytes. */
  #known = 0

  /** What is known of an extent is used for all of it: asking for each piece anew would look at its tables again. */
  async ask(offset: number, bytes: number): Promise<void> {
    if (offset < this.#known) {
      this.status.bytes = this.#known - offset
      return
    }
    try {
      await chainStatus(this.image.node, undefined, offset, bytes, 'zero', this.status)
      this.#known = offset + this.status.bytes
    } catch (error) {
      throw blockError(codeOf(error), `Sector allocation test failed for ${this.label}`, {
        at: { operation: 'status', offset, bytes },
        cause: error,
      })
    }
  }

  async read(offset: number, bytes: number): Promise<void> {
    try {
      const wait = this.image.read(offset, bytes, this.buffer)
      if (wait !== undefined) {
        await wait
      }
    } catch (error) {
      const code: ErrnoName = codeOf(error)
      throw blockError(code, `Error while reading offset ${offset} of ${this.label}: ${strerror(code)}`, {
        at: { operation: 'read', offset, bytes },
        cause: error,
      })
    }
  }

  /** Offset of the first sector of the range that is not zero. */
  async firstData(offset: number, bytes: number): Promise<number | undefined> {
    await this.read(offset, bytes)
    const sectors = bytes / sectorBytes
    for (let index = 0; index < sectors; index++) {
      if (!this.#scanner.isZero(index)) {
        return offset + index * sectorBytes
      }
    }
    return undefined
  }
}

function sameStatus(a: ChainStatus, b: ChainStatus): boolean {
  return (
    a.data === b.data &&
    a.zero === b.zero &&
    a.allocated === b.allocated &&
    a.eof === b.eof &&
    a.offsetValid === b.offsetValid
  )
}

type Difference = { readonly reason: 'content' | 'status'; readonly offset: number }

class Comparison {
  readonly #sides: readonly [Side, Side]
  readonly #comparer: SectorComparer
  readonly #total: number
  readonly #options: CompareOptions
  readonly #slice = new TimeSlice()

  constructor(sides: readonly [Side, Side], total: number, options: CompareOptions) {
    this.#sides = sides
    this.#comparer = new SectorComparer(sides[0].buffer, sides[1].buffer)
    this.#total = total
    this.#options = options
  }

  /** Compares `[0, end)`, which both images have. */
  async compareCommon(end: number, strict: boolean): Promise<Difference | undefined> {
    const [a, b] = this.#sides
    for (let offset = 0; offset < end; ) {
      await this.#step(offset)
      await a.ask(offset, a.image.length - offset)
      await b.ask(offset, b.image.length - offset)
      let bytes = Math.min(a.status.bytes, b.status.bytes)
      if (strict && !sameStatus(a.status, b.status)) {
        return { reason: 'status', offset }
      }
      if (!(a.status.zero && b.status.zero)) {
        bytes = Math.min(bytes, a.status.allocated || b.status.allocated ? chunkBytes : bytes)
        const different = await this.#compareExtent(offset, bytes)
        if (different !== undefined) {
          return { reason: 'content', offset: different }
        }
      }
      offset += bytes
    }
    return undefined
  }

  /** Offset of the first difference in an extent of at most one buffer. */
  async #compareExtent(offset: number, bytes: number): Promise<number | undefined> {
    const [a, b] = this.#sides
    if (a.status.allocated !== b.status.allocated) {
      return await (a.status.allocated ? a : b).firstData(offset, bytes)
    }
    if (!a.status.allocated) {
      return undefined
    }
    await settleAll([attempt(() => a.read(offset, bytes)), attempt(() => b.read(offset, bytes))])
    if (a.image.layer.host.sameBytes(a.buffer, 0, b.buffer, 0, bytes)) {
      return undefined
    }
    return offset + this.#comparer.firstDifference(bytes / sectorBytes) * sectorBytes
  }

  /** Offset of the first sector of `[start, end)` of one image that is not zero. */
  async checkZero(side: Side, start: number, end: number): Promise<number | undefined> {
    for (let offset = start; offset < end; ) {
      await this.#step(offset)
      await side.ask(offset, end - offset)
      let bytes = side.status.bytes
      if (side.status.allocated && !side.status.zero) {
        bytes = Math.min(bytes, chunkBytes)
        const data = await side.firstData(offset, bytes)
        if (data !== undefined) {
          return data
        }
      }
      offset += bytes
    }
    return undefined
  }

  async #step(offset: number): Promise<void> {
    throwIfAborted(this.#options.signal)
    this.#options.progress?.(offset, this.#total)
    const pause = this.#slice.breathe()
    if (pause !== undefined) {
      await pause
    }
  }
}
