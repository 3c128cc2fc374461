import type { Wait } from '../sched/index.js'

/** Receives the extents of a status request in order; false: no more is wanted. Bytes. */
export interface StatusSink {
  add(bytes: number, flags: number): boolean
}

/** What block status can tell about an export: a metadata context. */
export interface MetaContext {
  /** Such as `base:allocation`. */
  readonly name: string
  /** Number that stands for it in replies. */
  readonly id: number
  /** Describes `[offset, +bytes)`, which lies within the export. The sink merges extents with equal flags. */
  describe(offset: number, bytes: number, out: StatusSink): Wait
}

/** How a zero-write is to be done. */
export interface ZeroWish {
  readonly fua: boolean
  /** The range may be deallocated. */
  readonly mayUnmap: boolean
  /** Not by writing zeroes: ENOTSUP instead. */
  readonly fast: boolean
}

/**
 * A disk that a server offers. Offsets and lengths are bytes, ranges have been checked; buffers belong
 * to the server and stay untouched until the wait settles. Failures are BlockErrors.
 */
export interface ServedExport {
  readonly name: string
  readonly description: string | undefined
  readonly size: number
  /** `TransmissionFlags`, without those that depend on what a client negotiates. */
  readonly flags: number
  /** Least unit of requests, a power of two, for clients that keep to it. */
  readonly minimumBlock: number
  /** Longest read or write. */
  readonly maximumBlock: number
  readonly contexts: readonly MetaContext[]
  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait
  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, fua: boolean): Wait
  writeZeroes(offset: number, bytes: number, wish: ZeroWish): Wait
  trim(offset: number, bytes: number): Wait
  flush(): Wait
  /** Brings the range to where it is read fast. */
  cache(offset: number, bytes: number): Wait
  /** Whether the whole range is known at once to read as zeroes. */
  readsAsZeroes(offset: number, bytes: number): boolean
}

/** The exports of a server, in order. */
export interface ExportTable {
  find(name: string): ServedExport | undefined
  list(): Iterable<ServedExport>
}
