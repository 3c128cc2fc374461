import { Readable, Writable } from 'node:stream'
import type {
  ReadableStream as NodeReadableStream,
  WritableStream as NodeWritableStream,
} from 'node:stream/web'
import type { Image, RangeOptions } from './library/index.js'

/** A Node stream of the contents of `[start, end)` of an image, by default all of it. */
export function createReadStream(image: Image, options: RangeOptions = {}): Readable {
  return Readable.fromWeb(image.readable(options) as NodeReadableStream)
}

/** A Node stream that writes into an image from `start` on; it ends with a flush. */
export function createWriteStream(image: Image, options: RangeOptions = {}): Writable {
  return Writable.fromWeb(image.writable(options) as NodeWritableStream)
}
