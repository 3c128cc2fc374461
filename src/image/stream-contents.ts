/** Bytes of a page of metadata. */
const pageBytes = 65536

/** A run of file bytes that stand in the source of the conversion. */
interface Reference {
  readonly start: number
  readonly end: number
  /** Where `start` stands in the source. */
  readonly source: number
}

/** What a run of a recorded file is. Bytes. */
export interface RecordedRun {
  readonly bytes: number
  /** Where the run stands in the source; undefined: take it from {@link RecordedContents.readPages}. */
  readonly source: number | undefined
  /** No page holds any of it, so it is zero. */
  readonly hole: boolean
}

/**
 * The contents of a file that is never stored: small things as they are, guest data as references
 * into the source of the conversion. What was written last counts.
 */
export class RecordedContents {
  /** Length of the file in bytes. */
  size = 0
  /** By start, not overlapping. */
  readonly #references: Reference[] = []
  readonly #pages = new Map<number, Uint8Array>()

  /** Index of the first reference that ends after `offset`. */
  #find(offset: number): number {
    let low = 0
    let high = this.#references.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#references[middle] as Reference).end > offset) {
        high = middle
      } else {
        low = middle + 1
      }
    }
    return low
  }

  /** Takes the range out of the references and returns where one that starts there belongs. */
  #cut(start: number, end: number): number {
    const first = this.#find(start)
    let last = first
    const kept: Reference[] = []
    for (; last < this.#references.length; last++) {
      const reference = this.#references[last] as Reference
      if (reference.start >= end) {
        break
      }
      if (reference.start < start) {
        kept.push({ ...reference, end: start })
      }
      if (reference.end > end) {
        kept.push({ start: end, end: reference.end, source: reference.source + (end - reference.start) })
      }
    }
    this.#references.splice(first, last - first, ...kept)
    return first + (kept[0] !== undefined && kept[0].start < start ? 1 : 0)
  }

  /** The range holds what stands at `source` in the source. */
  refer(offset: number, bytes: number, source: number): void {
    const end = offset + bytes
    const at = this.#cut(offset, end)
    const before = this.#references[at - 1]
    if (before?.end === offset && before.source + (offset - before.start) === source) {
      this.#references[at - 1] = { ...before, end }
    } else {
      this.#references.splice(at, 0, { start: offset, end, source })
    }
    this.size = Math.max(this.size, end)
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): void {
    this.#cut(offset, offset + bytes)
    for (let done = 0; done < bytes; ) {
      const index = Math.floor((offset + done) / pageBytes)
      const inPage = (offset + done) % pageBytes
      const length = Math.min(pageBytes - inPage, bytes - done)
      let page = this.#pages.get(index)
      if (page === undefined) {
        page = new Uint8Array(pageBytes)
        this.#pages.set(index, page)
      }
      page.set(buffer.subarray(bufferOffset + done, bufferOffset + done + length), inPage)
      done += length
    }
    this.size = Math.max(this.size, offset + bytes)
  }

  /** The range is zero; the file may grow. */
  zero(offset: number, bytes: number): void {
    const end = offset + bytes
    this.#cut(offset, end)
    for (let at = offset; at < end; ) {
      const index = Math.floor(at / pageBytes)
      const next = Math.min(end, (index + 1) * pageBytes)
      if (next - at === pageBytes) {
        this.#pages.delete(index)
      } else {
        this.#pages.get(index)?.fill(0, at - index * pageBytes, next - index * pageBytes)
      }
      at = next
    }
    this.size = Math.max(this.size, end)
  }

  truncate(length: number): void {
    if (length < this.size) {
      this.zero(length, this.size - length)
    }
    this.size = length
  }

  /** The run that starts at `offset`, at most `bytes` long. */
  runAt(offset: number, bytes: number): RecordedRun {
    const reference = this.#references[this.#find(offset)]
    const end = offset + bytes
    if (reference !== undefined && reference.start <= offset) {
      const stop = Math.min(end, reference.end)
      return { bytes: stop - offset, source: reference.source + (offset - reference.start), hole: false }
    }
    const stop = Math.min(end, reference?.start ?? end)
    const index = Math.floor(offset / pageBytes)
    const hole = !this.#pages.has(index)
    let next = index + 1
    while (next * pageBytes < stop && this.#pages.has(next) !== hole) {
      next++
    }
    return { bytes: Math.min(stop, next * pageBytes) - offset, source: undefined, hole }
  }

  /** Fills the buffer with a run that is not in the source. */
  readPages(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): void {
    for (let done = 0; done < bytes; ) {
      const index = Math.floor((offset + done) / pageBytes)
      const inPage = (offset + done) % pageBytes
      const length = Math.min(pageBytes - inPage, bytes - done)
      const page = this.#pages.get(index)
      const at = bufferOffset + done
      if (page === undefined) {
        buffer.fill(0, at, at + length)
      } else {
        buffer.set(page.subarray(inPage, inPage + length), at)
      }
      done += length
    }
  }
}
