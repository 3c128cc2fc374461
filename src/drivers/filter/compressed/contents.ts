import type { HostCodecs } from '../../../host/index.js'
import type { IoNode } from '../../../io/index.js'
import { bzip2Contents } from './bzip2.js'
import { gzipContents } from './gzip.js'
import { xzContents } from './xz.js'
import { zstdContents } from './zstd.js'

/** A place from which decoding can start. Offsets are bytes of what the file holds. */
export interface StartPoint {
  readonly offset: number
  /** The decoded bytes from {@link offset} on, piece by piece, each valid until the next is asked for. */
  decode(): AsyncGenerator<Uint8Array, void, void>
}

/** What a compressed file holds. */
export interface Contents {
  /** Bytes. */
  readonly length: number
  /** In order; the first is at 0. */
  readonly points: readonly StartPoint[]
}

/**
 * Finds out what a compressed file holds.
 *
 * @param size bytes, if somebody knows; otherwise a file that does not tell is decoded once to count them
 * @returns undefined if it is not compressed in a way known here
 * @throws BlockError EIO if it is corrupt
 */
export async function findContents(
  file: IoNode,
  codecs: HostCodecs,
  size: number | undefined,
): Promise<Contents | undefined> {
  const head = new Uint8Array(16)
  await file.read(0, head.length, head, 0, 0)
  return (
    (await gzipContents(file, codecs, head, size)) ??
    (await xzContents(file, head)) ??
    (await bzip2Contents(file, head, size)) ??
    (await zstdContents(file, codecs, head))
  )
}

/** Start points kept of a file, so that memory is bounded whatever its size. */
export const maxPoints = 1 << 16

/** Collects start points that are not closer together than is of use. */
export class PointList {
  #points: StartPoint[] = []
  #gap = 1 << 20

  add(point: StartPoint): void {
    const last = this.#points.at(-1)
    if (last !== undefined && point.offset - last.offset < this.#gap) {
      return
    }
    this.#points.push(point)
    if (this.#points.length >= maxPoints) {
      this.#gap *= 2
      this.#points = this.#points.filter((_, i) => i % 2 === 0)
    }
  }

  get points(): readonly StartPoint[] {
    return this.#points
  }
}
