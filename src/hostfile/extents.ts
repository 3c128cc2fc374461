import type { HostFile } from '../host/index.js'
import type { ExtentSink, IoNode } from '../io/index.js'

/**
 * Where a sparse file has data and where holes. The data region found last is remembered, because
 * consecutive queries mostly ask for the rest of it; holes are not, since another process may fill
 * them at any time, while taking data for a hole is the only mistake that matters.
 */
export class FileExtents {
  #dataStart = 0
  #dataEnd = 0
  /** Where data begins behind the hole found last; -1: not known. */
  #nextData = -1

  /** The range may have become a hole. */
  forget(offset: number, bytes: number): void {
    this.#nextData = -1
    if (offset < this.#dataEnd && this.#dataStart < offset + bytes) {
      this.#dataEnd = this.#dataStart
    }
  }

  /**
   * Reports `[offset, +bytes)` of `file` to `sink` as extents of `node`, until the sink has enough, or where
   * data ends and a hole begins, or the other way round.
   * `align` is the node's request alignment in bytes; extents are multiples of it.
   */
  report(file: HostFile, node: IoNode, offset: number, bytes: number, align: number, sink: ExtentSink): void {
    const end = offset + bytes
    for (let at = offset; at < end; ) {
      const found = this.#extentAt(file, at)
      const hole = Math.min(Math.floor(-found / align) * align, end - at)
      if (hole > 0) {
        if (!sink.zero(hole, node, at)) {
          return
        }
        at += hole
        if (at === this.#nextData) {
          return
        }
        continue
      }
      // Rounded up at the end of the file; a hole too small to be one request counts as data.
      const data = Math.min(Math.ceil(Math.max(found, 1) / align) * align, end - at)
      if (!sink.data(data, node, at, 0)) {
        return
      }
      at += data
      if (at === this.#dataEnd) {
        return
      }
    }
  }

  /** Length of the extent at `at`: positive for data, negative for a hole, ±Infinity without an end. */
  #extentAt(file: HostFile, at: number): number {
    if (at >= this.#dataStart && at < this.#dataEnd) {
      return this.#dataEnd - at
    }
    if (at !== this.#nextData) {
      const data = file.seekData(at)
      if (data === undefined) {
        return Infinity
      }
      if (data < 0) {
        return -Infinity
      }
      if (data > at) {
        this.#nextData = data
        return at - data
      }
    }
    this.#nextData = -1
    const hole = file.seekHole(at)
    if (hole === undefined || hole <= at) {
      // A hole was dug just now, or the end moved: pretend to know nothing.
      return Infinity
    }
    this.#dataStart = at
    this.#dataEnd = hole
    return hole - at
  }
}
