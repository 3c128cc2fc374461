import type { BlockNode } from '../graph/index.js'

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
export async function* mapImage(node: BlockNode, options: MapOptions = {}): AsyncGenerator<MapExtent, void, void> {
  throw new Error(`unfinished ${String(node)} ${String(options)}`)
}
