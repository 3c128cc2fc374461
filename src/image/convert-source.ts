import { blockError, codeOf, type ErrnoName, strerror } from '../errors/index.js'
import { type Backend, type BlockLayer, type BlockNode, driverInfo, skipFilters } from '../graph/index.js'
import { ChainStatus, chainStatus, type IoNode } from '../io/index.js'
import type { Wait } from '../sched/index.js'
import { type ImageSpec, openImage } from './open.js'
import { sectorBytes } from './sectors.js'

/** One source of a conversion and where it starts in the concatenation. Bytes. */
interface Part {
  readonly image: Backend
  readonly start: number
  readonly length: number
  /** What its extents should end at: its request alignment or its clusters. */
  readonly alignment: number
}

export interface SourceOptions {
  readonly cache: string
  /** Unreadable sectors become zeroes. */
  readonly salvage: boolean
  /** Receives a warning for each. */
  readonly warn: (text: string) => void
}

/** What a range of the sources is. */
export type SourceStatus = 'data' | 'zero' | 'unallocated'

/** What a conversion reads from. Offsets and lengths are bytes. */
export interface SourceReader {
  readonly length: number
  /** Bytes of the extent that {@link ask} found. */
  readonly extentBytes: number
  /**
   * Finds out what the extent at `offset` is, at most `bytes` long, and leaves its length in
   * {@link extentBytes}. `aboveBacking` looks at the image alone, without its backing files.
   */
  ask(offset: number, bytes: number, aboveBacking: boolean): Promise<SourceStatus>
  /** Fills `buffer[bufferOffset, +bytes)` from `offset`; `bufferOffset` defaults to 0. */
  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset?: number): Wait
  /** Copies inside the kernel; false if that is not possible for all of it. */
  copyTo(target: BlockNode, offset: number, bytes: number): Promise<boolean>
}

/** The sources of a conversion as one image, concatenated in order. */
export class ConvertSources implements SourceReader {
  readonly #parts: Part[] = []
  readonly #options: SourceOptions
  readonly #status = new ChainStatus()
  length = 0
  extentBytes = 0

  private constructor(options: SourceOptions) {
    this.#options = options
  }

  /** Opens all sources, or none. */
  static async open(
    layer: BlockLayer,
    specs: readonly (ImageSpec | string)[],
    options: SourceOptions,
  ): Promise<ConvertSources> {
    const sources = new ConvertSources(options)
    try {
      for (const spec of specs) {
        // Nobody may write to a source meanwhile: its map is taken first. This also keeps an image from
        // being converted onto itself.
        const noShare = typeof spec === 'string' || spec.forceShare !== true
        sources.add(await openImage(layer, spec, { cache: options.cache, cacheOf: 'source', noShare }))
      }
    } catch (error) {
      await sources.close()
      throw error
    }
    return sources
  }

  /** Appends an image, which is closed with the others. */
  add(image: Backend): void {
    const alignment = Math.max(
      sectorBytes,
      image.node.limits.requestAlignment,
      driverInfo(image.node)?.clusterSize ?? 0,
    )
    this.#parts.push({ image, start: this.length, length: image.length, alignment })
    this.length += image.length
  }

  get first(): BlockNode {
    const part = this.#parts[0]
    if (part === undefined) {
      throw new Error('a conversion without sources')
    }
    return part.image.node
  }

  get count(): number {
    return this.#parts.length
  }

  async close(): Promise<void> {
    for (const part of this.#parts.splice(0)) {
      await part.image.close()
    }
  }

  #partAt(offset: number): Part {
    for (const part of this.#parts) {
      if (offset < part.start + part.length) {
        return part
      }
    }
    throw new Error(`offset ${offset} is past the end of all sources`)
  }

  async ask(offset: number, bytes: number, aboveBacking: boolean): Promise<SourceStatus> {
    const part = this.#partAt(offset)
    const node = part.image.node
    const place = offset - part.start
    const base = aboveBacking ? skipFilters(node)?.backing : undefined
    const found = await this.#askPart(node, base, place, Math.min(bytes, part.length - place))
    let length = Math.ceil(this.extentBytes / sectorBytes) * sectorBytes
    // Extents that end within a cluster would make the source be read twice there.
    const tail = (place + length) % part.alignment
    if (length > tail) {
      length -= tail
    }
    this.extentBytes = length
    return found
  }

  async #askPart(
    node: IoNode,
    base: IoNode | undefined,
    offset: number,
    bytes: number,
  ): Promise<SourceStatus> {
    const status = this.#status
    for (let length = bytes; ; ) {
      try {
        await chainStatus(node, base, offset, length, 'zero', status)
        this.extentBytes = status.bytes
        return status.zero ? 'zero' : status.data ? 'data' : 'unallocated'
      } catch (error) {
        const code = codeOf(error)
        const problem = `error while reading block status at offset ${offset}: ${strerror(code)}`
        if (!this.#options.salvage) {
          throw blockError(code, problem, { cause: error })
        }
        if (length <= sectorBytes) {
          this.#options.warn(problem)
          // The data may be readable all the same.
          this.extentBytes = sectorBytes
          return 'data'
        }
        length = Math.ceil(length / sectorBytes / 4) * sectorBytes
      }
    }
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset = 0): Wait {
    const part = this.#partAt(offset)
    if (offset + bytes > part.start + part.length) {
      return this.#readParts(offset, bytes, buffer, bufferOffset)
    }
    return this.#readPart(part, offset, bytes, buffer, bufferOffset)
  }

  async #readParts(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    for (let done = 0; done < bytes; ) {
      const part = this.#partAt(offset + done)
      const length = Math.min(bytes - done, part.start + part.length - (offset + done))
      const wait = this.#readPart(part, offset + done, length, buffer, bufferOffset + done)
      if (wait !== undefined) {
        await wait
      }
      done += length
    }
  }

  /** Reads `bytes` at `offset` of the whole, all of them in `part`, into `buffer` at `bufferOffset`. */
  #readPart(part: Part, offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    let wait: Wait
    try {
      wait = part.image.read(offset - part.start, bytes, buffer, bufferOffset)
    } catch (error) {
      return this.#recover(error, part, offset, bytes, buffer, bufferOffset)
    }
    return wait?.catch((error: unknown) => this.#recover(error, part, offset, bytes, buffer, bufferOffset))
  }

  /** After a failed read: saves what can be saved, or reports it. */
  #recover(
    error: unknown,
    part: Part,
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
  ): Promise<void> {
    const code = codeOf(error)
    if (!this.#options.salvage) {
      throw blockError(code, `error while reading at byte ${offset}: ${strerror(code)}`, { cause: error })
    }
    return this.#salvage(part.image, offset - part.start, bytes, buffer, bufferOffset)
  }

  /** Reads sector by sector; what cannot be read becomes zero. */
  async #salvage(
    image: Backend,
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
  ): Promise<void> {
    for (let done = 0; done < bytes; done += sectorBytes) {
      const length = Math.min(sectorBytes, bytes - done)
      try {
        const wait = image.read(offset + done, length, buffer, bufferOffset + done)
        if (wait !== undefined) {
          await wait
        }
      } catch (error) {
        const code: ErrnoName = codeOf(error)
        this.#options.warn(`error while reading offset ${offset + done}: ${strerror(code)}`)
        buffer.fill(0, bufferOffset + done, bufferOffset + done + length)
      }
    }
  }

  async copyTo(target: BlockNode, offset: number, bytes: number): Promise<boolean> {
    for (let done = 0; done < bytes; ) {
      const part = this.#partAt(offset + done)
      const place = offset + done - part.start
      const length = Math.min(bytes - done, part.length - place)
      const copied = await part.image.node.state?.copyRangeTo?.(place, target, offset + done, length)
      if (copied === undefined || copied === 0) {
        return false
      }
      done += copied
    }
    return true
  }
}
