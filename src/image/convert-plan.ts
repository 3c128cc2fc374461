import { maxRequestBytes } from '../io/index.js'
import type { SourceReader } from './convert-source.js'

/** What to do with a step of a conversion: copy the data, make it zero, or let the target's backing file show. */
export type StepKind = 'data' | 'zero' | 'backing'

export interface PlanOptions {
  /** Most bytes of data in one step. */
  readonly bufferBytes: number
  /** Whether steps of data must be whole clusters of the target. */
  readonly compress: boolean
  /** Bytes in a cluster of the target; 0 if it has none. */
  readonly clusterBytes: number
  readonly targetHasBacking: boolean
  /** Length of the target's backing file in bytes; undefined: none, or not known. */
  readonly targetBackingLength: number | undefined
}

/**
 * Divides a conversion into steps as `qemu-img` does, because the steps decide what the target will
 * look like. One step after the other; the caller sees to it that {@link next} does not run twice at a time.
 */
export class ConvertPlan {
  readonly #sources: SourceReader
  readonly #options: PlanOptions
  /** Where the extent known last ends; it is not asked for twice. */
  #extentEnd = 0
  #extentKind: StepKind = 'data'
  /** What the step found last is, and its length in bytes. */
  kind: StepKind = 'data'
  bytes = 0

  constructor(sources: SourceReader, options: PlanOptions) {
    this.#sources = sources
    this.#options = options
  }

  /** Starts again from the beginning. */
  restart(): void {
    this.#extentEnd = 0
  }

  /** Finds the step at `offset`, which is less than the length of the sources. */
  async next(offset: number): Promise<void> {
    const { bufferBytes, compress, clusterBytes } = this.#options
    const rest = this.#sources.length - offset
    let most = Math.min(rest, maxRequestBytes)
    const backing = this.#options.targetBackingLength
    const pastBacking = backing !== undefined && offset >= backing
    if (backing !== undefined && !pastBacking) {
      // Zeroes mean something else from the end of the backing file on.
      most = Math.min(most, backing - offset)
    }
    if (this.#extentEnd <= offset) {
      await this.#ask(offset, most, pastBacking)
    }
    let bytes = Math.min(most, this.#extentEnd - offset)
    let kind = this.#extentKind
    if (kind === 'data') {
      bytes = Math.min(bytes, bufferBytes)
    }
    if (compress) {
      // Clusters are compressed as a whole, so what is shorter than one is data.
      if (bytes < clusterBytes) {
        bytes = Math.min(clusterBytes, rest)
        kind = 'data'
        this.#extentKind = 'data'
      } else {
        bytes -= bytes % clusterBytes
      }
    }
    this.kind = kind
    this.bytes = bytes
  }

  async #ask(offset: number, bytes: number, pastBacking: boolean): Promise<void> {
    const { targetHasBacking } = this.#options
    const found = await this.#sources.ask(offset, bytes, targetHasBacking)
    if (found === 'zero') {
      this.#extentKind = pastBacking ? 'backing' : 'zero'
    } else if (found === 'unallocated') {
      this.#extentKind = targetHasBacking ? 'backing' : 'data'
    } else {
      this.#extentKind = 'data'
    }
    this.#extentEnd = offset + this.#sources.extentBytes
  }
}
