import { blockError, ioError } from '../errors/index.js'

/** A part of an image, bytes, and what stops the stream over it. */
export interface RangeOptions {
  /** Default 0. */
  readonly start?: number | undefined
  /** First byte past the part; default: the end of the image. */
  readonly end?: number | undefined
  readonly signal?: AbortSignal | undefined
}

/** What the streams need of an image. */
interface StreamedImage {
  readonly size: number
  read(offset: number, bytes: number): Promise<Uint8Array>
  write(offset: number, data: Uint8Array): Promise<void>
  flush(): Promise<void>
}

/** Bytes read at a time. */
const chunkBytes = 1024 * 1024

function rangeOf(image: StreamedImage, { start = 0, end = image.size }: RangeOptions): [number, number] {
  const sane = Number.isSafeInteger(start) && Number.isSafeInteger(end) && start >= 0 && start <= end
  if (!sane || end > image.size) {
    throw blockError('EINVAL', `Range from ${start} to ${end} does not lie within the image`)
  }
  return [start, end]
}

function aborted(signal: AbortSignal) {
  return blockError('ECANCELED', 'Operation canceled', { cause: signal.reason })
}

/** Makes a stream fail when `signal` is aborted; the result undoes that. */
function failOnAbort(signal: AbortSignal | undefined, fail: (error: unknown) => void): () => void {
  if (signal === undefined) {
    return () => undefined
  }
  const listener = (): void => fail(aborted(signal))
  if (signal.aborted) {
    listener()
  } else {
    signal.addEventListener('abort', listener, { once: true })
  }
  return () => signal.removeEventListener('abort', listener)
}

/** The contents of a part of an image as a stream; each chunk is the consumer's own. */
export function readableOf(image: StreamedImage, options: RangeOptions): ReadableStream<Uint8Array> {
  let [offset, end] = rangeOf(image, options)
  let forget = (): void => undefined
  return new ReadableStream<Uint8Array>(
    {
      start: (controller) => {
        forget = failOnAbort(options.signal, (error) => controller.error(error))
      },
      pull: async (controller) => {
        const bytes = Math.min(chunkBytes, end - offset)
        if (bytes > 0) {
          const chunk = await image.read(offset, bytes)
          if (options.signal?.aborted === true) {
            return
          }
          offset += bytes
          controller.enqueue(chunk)
        }
        if (offset === end) {
          forget()
          controller.close()
        }
      },
      cancel: () => {
        forget()
        end = offset
      },
    },
    // One chunk is read ahead while the consumer looks at another.
    { highWaterMark: 1 },
  )
}

/** A stream into a part of an image. */
export function writableOf(image: StreamedImage, options: RangeOptions): WritableStream<Uint8Array> {
  let [offset, end] = rangeOf(image, options)
  let forget = (): void => undefined
  return new WritableStream<Uint8Array>({
    start: (controller) => {
      forget = failOnAbort(options.signal, (error) => controller.error(error))
    },
    write: async (chunk) => {
      if (offset + chunk.length > end) {
        throw ioError('ENOSPC', { operation: 'write', offset, bytes: chunk.length })
      }
      await image.write(offset, chunk)
      offset += chunk.length
    },
    close: async () => {
      forget()
      await image.flush()
    },
    abort: () => forget(),
  })
}
