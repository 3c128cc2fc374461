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
