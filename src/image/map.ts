import { codeOf, errnoError } from '../errors/index.js'
import { type BlockNode, refreshFilename, skipFilters } from '../graph/index.js'
import { BlockStatus, type IoNode } from '../io/index.js'
import { TimeSlice } from '../sched/index.js'
import { throwIfAborted } from './long-run.js'

/** A run of guest bytes with one status. Offsets and lengths are bytes. */
export interface MapExtent {
  readonly start: number
  readonly length: number
  /** Layer that decides the contents: 0 is the image itself, counting images of the chain, filters skipped. */
  readonly depth: number
  /** Some layer of the chain decides the contents; otherwise they read as zeroes because none does. */
  readonly present: boolean
  readonly zero: boolean
  readonly data: boolean
  readonly compressed: boolean
  /** Where the bytes stand as they are, in the file called `filename`. */
  readonly offset?: number
  readonly filename?: string
}

export interface MapOptions {
  /** First byte to describe; default 0. */
  readonly start?: number | undefined
  /** Bytes to describe at most; default: all. */
  readonly max?: number | undefined
  readonly signal?: AbortSignal | undefined
}

/**
 * The extents of an image and its chain in order, equal neighbours merged as `qemu-img map` does.
 * An empty range has none.
 *
 * @throws BlockError `Could not read file metadata: …`
 */
export async function* mapImage(
  node: BlockNode,
  options: MapOptions = {},
): AsyncGenerator<MapExtent, void, void> {
  const start = options.start ?? 0
  const end = Math.min(node.length, start + (options.max ?? Number.MAX_SAFE_INTEGER))
  const slice = new TimeSlice()
  const finder = new ExtentFinder(node)
  let current: MapExtent | undefined
  for (let at = start; at < end; ) {
    throwIfAborted(options.signal)
    const next = await finder.find(at, end - at)
    if (current !== undefined && mergeable(current, next)) {
      current = { ...current, length: current.length + next.length }
    } else {
      if (current !== undefined) {
        yield current
      }
      current = next
    }
    at += next.length
    const pause = slice.breathe()
    if (pause !== undefined) {
      await pause
    }
  }
  if (current !== undefined) {
    yield current
  }
}

function mergeable(a: MapExtent, b: MapExtent): boolean {
  return (
    a.present === b.present &&
    a.zero === b.zero &&
    a.data === b.data &&
    a.compressed === b.compressed &&
    a.depth === b.depth &&
    a.filename === b.filename &&
    (a.offset === undefined) === (b.offset === undefined) &&
    (a.offset === undefined || a.offset + a.length === b.offset)
  )
}

/** What no layer decides. */
const nobodys = { present: false, zero: false, data: false, compressed: false } as const

/** Looks for extents down the chain of one image. */
class ExtentFinder {
  readonly #top: BlockNode
  readonly #status = new BlockStatus()
  readonly #names = new Map<IoNode, string>()

  constructor(top: BlockNode) {
    this.#top = top
  }

  /** The extent at `offset`, at most `bytes` long. */
  async find(offset: number, bytes: number): Promise<MapExtent> {
    const status = this.#status
    let depth = 0
    let length = bytes
    let decided = false
    /** The host space that the layer above has there all the same. */
    let above: { offset?: number; filename?: string } = {}
    for (let node = skipFilters(this.#top); node !== undefined; ) {
      await this.#ask(node, offset, length)
      if (status.bytes === 0) {
        // This layer ends before: the one above it shows zeroes.
        return { start: offset, length, depth: depth - 1, ...nobodys, zero: true, ...above }
      }
      length = status.bytes
      if (status.zero || status.data) {
        decided = true
        break
      }
      const below = skipFilters(node.backing)
      if (below === undefined) {
        break
      }
      above = this.#place()
      node = below
      depth++
    }
    if (!decided) {
      return { start: offset, length, depth, ...nobodys }
    }
    return {
      start: offset,
      length,
      depth,
      present: status.allocated,
      zero: status.zero,
      data: status.data,
      compressed: status.compressed,
      ...this.#place(),
    }
  }

  #place(): { offset?: number; filename?: string } {
    const { node, offset } = this.#status
    return node === undefined ? {} : { offset, filename: this.#nameOf(node) }
  }

  async #ask(node: BlockNode, offset: number, bytes: number): Promise<void> {
    try {
      const wait = node.status(offset, bytes, 'zero', this.#status)
      if (wait !== undefined) {
        await wait
      }
    } catch (error) {
      throw errnoError(codeOf(error), 'Could not read file metadata', { cause: error })
    }
  }

  #nameOf(node: IoNode): string {
    let name = this.#names.get(node)
    if (name === undefined) {
      const block = node as BlockNode
      refreshFilename(block)
      name = block.filename
      this.#names.set(node, name)
    }
    return name
  }
}
