import { codeOf, errnoError, prefixed } from '../errors/index.js'
import {
  type Backend,
  type BlockLayer,
  createWithDriver,
  probeAll,
  probeBytes,
  truncateNode,
} from '../graph/index.js'
import type { HostFile } from '../host/index.js'
import { attempt } from '../sched/index.js'
import { type ConvertOptions, type ConvertResult, closeQuietly, convertImage } from './convert.js'
import { NewImagePlace } from './convert-target.js'
import { CreateOptions, createTarget } from './create-options.js'
import { throwIfAborted } from './long-run.js'
import { imageLabel, openImage } from './open.js'
import { SectorScanner, sectorBytes } from './sectors.js'

/** A forward-only source of bytes of unknown length, such as standard input. */
export type ByteSource = AsyncIterable<Uint8Array>

export interface ConvertFromSourceOptions extends Omit<ConvertOptions, 'sources'> {
  /** Format of the stream; probed when absent. */
  readonly sourceFormat?: string | undefined
}

/** Bytes moved at a time. */
const chunkBytes = 2 * 1024 * 1024

/**
 * Converts a stream. Raw bytes go straight into the target, which grows with them; what cannot be done
 * that way (an image of another format, compression, a backing file, preallocation, `-n`, a target that
 * cannot grow) is spooled to a temporary file first and then converted by {@link convertImage}.
 *
 * Progress is reported for the second step only, as the length of a stream is not known.
 *
 * @throws BlockError with QEMU's text
 */
export async function convertFromSource(
  layer: BlockLayer,
  source: ByteSource,
  options: ConvertFromSourceOptions,
): Promise<ConvertResult> {
  const reader = new ChunkReader(source, options.signal)
  try {
    return await convertFrom(layer, reader, options)
  } finally {
    await reader.close()
  }
}

async function convertFrom(
  layer: BlockLayer,
  reader: ChunkReader,
  options: ConvertFromSourceOptions,
): Promise<ConvertResult> {
  await reader.fill()
  const head = reader.buffer.subarray(0, Math.min(probeBytes, reader.bytes))
  const format = options.sourceFormat ?? probeAll(layer, head, undefined)?.name ?? 'raw'
  if (format === 'raw' && isPlain(options)) {
    const result = await growTarget(layer, reader, options)
    if (result !== undefined) {
      return result
    }
  }
  return await spoolAndConvert(layer, reader, format, options)
}

/** Whether nothing is asked for that needs the length of the source. */
function isPlain(options: ConvertFromSourceOptions): boolean {
  return (
    options.compress !== true &&
    options.skipCreate !== true &&
    options.backing === undefined &&
    options.rateLimit === undefined &&
    options.snapshot === undefined
  )
}

/** Gathers a stream into chunks of full size, in one of two buffers by turns. */
class ChunkReader {
  readonly #chunks: AsyncIterator<Uint8Array>
  readonly #signal: AbortSignal | undefined
  readonly #buffers = [new Uint8Array(chunkBytes), new Uint8Array(chunkBytes)] as const
  #turn = 0
  #rest: Uint8Array = new Uint8Array(0)
  /** Bytes in {@link buffer}; 0: the stream has ended. */
  bytes = 0

  constructor(source: ByteSource, signal: AbortSignal | undefined) {
    this.#chunks = source[Symbol.asyncIterator]()
    this.#signal = signal
  }

  /** Valid until {@link fill} has been called twice more. */
  get buffer(): Uint8Array {
    return this.#turn === 0 ? this.#buffers[0] : this.#buffers[1]
  }

  /** Reads the next chunk, short only at the end of the stream. */
  async fill(): Promise<void> {
    this.#turn = 1 - this.#turn
    const buffer = this.buffer
    let filled = 0
    while (filled < chunkBytes) {
      if (this.#rest.length === 0) {
        throwIfAborted(this.#signal)
        const next = await this.#next()
        if (next === undefined) {
          break
        }
        this.#rest = next
        continue
      }
      const part = this.#rest.subarray(0, chunkBytes - filled)
      buffer.set(part, filled)
      filled += part.length
      this.#rest = this.#rest.subarray(part.length)
    }
    this.bytes = filled
  }

  /** Tells the stream that nobody reads on. */
  async close(): Promise<void> {
    await this.#chunks.return?.()
  }

  async #next(): Promise<Uint8Array | undefined> {
    try {
      const result = await this.#chunks.next()
      return result.done === true ? undefined : result.value
    } catch (error) {
      throw errnoError(codeOf(error), 'error while reading from the input stream', { cause: error })
    }
  }
}

/** Streams into a new target; undefined, with nothing read and nothing made, if that does not work with it. */
async function growTarget(
  layer: BlockLayer,
  reader: ChunkReader,
  options: ConvertFromSourceOptions,
): Promise<ConvertResult | undefined> {
  const format = options.format ?? 'raw'
  const filename = imageLabel(options.target)
  const values = new CreateOptions(createTarget(layer, format, filename), options.options)
  if (values.text('backing_file') !== undefined || (values.text('preallocation') ?? 'off') !== 'off') {
    return undefined
  }
  values.set('size', 0)
  const place = new NewImagePlace(layer, values.target.driver, filename)
  try {
    try {
      place.hasMade(await createWithDriver(layer, values.target.driver, place.workName, values.values()))
    } catch (error) {
      throw prefixed(error, `${filename}: error while converting ${format}: `)
    }
    const target = await openImage(
      layer,
      { filename: place.workName, format, label: filename },
      { write: true, resize: true, unmap: true, cache: options.cache ?? 'unsafe' },
    )
    if (target.node.state?.truncate === undefined) {
      await target.close()
      place.rollback()
      return undefined
    }
    let result: ConvertResult
    try {
      result = await pour(reader, target, options)
      await attempt(() => target.flush())
    } catch (error) {
      await closeQuietly(target)
      throw error
    }
    await target.close()
    place.commit()
    return result
  } catch (error) {
    place.rollback()
    throw place.named(error)
  }
}

/** Moves the stream into the target; the next chunk is gathered while one is being written. */
async function pour(
  reader: ChunkReader,
  target: Backend,
  options: ConvertFromSourceOptions,
): Promise<ConvertResult> {
  const minimum = (options.sparseSize ?? 4096) / sectorBytes
  let size = 0
  let writing: Promise<void> = Promise.resolve()
  try {
    for (; reader.bytes > 0; await reader.fill()) {
      const { buffer } = reader
      const bytes = Math.ceil(reader.bytes / sectorBytes) * sectorBytes
      buffer.fill(0, reader.bytes, bytes)
      await writing
      writing = writeChunk(target, size, bytes, buffer, minimum)
      // A failure is looked at when the next chunk is there.
      writing.catch(codeOf)
      size += bytes
    }
  } finally {
    await writing
  }
  return { size, dataBytes: size }
}

async function writeChunk(
  target: Backend,
  offset: number,
  bytes: number,
  buffer: Uint8Array,
  minimum: number,
): Promise<void> {
  await truncateNode(target.node, offset + bytes, { exact: true, preallocation: 'off', zero: false })
  const scanner = new SectorScanner(buffer)
  const sectors = bytes / sectorBytes
  for (let at = 0; at < sectors; at += scanner.sectors) {
    const place = offset / sectorBytes + at
    if (minimum === 0) {
      scanner.isData = true
      scanner.sectors = sectors
    } else {
      scanner.next(at, sectors - at, place, minimum, 2 ** Math.floor(Math.log2(minimum)))
    }
    const start = place * sectorBytes
    if (scanner.isData) {
      await writeOut(start, () =>
        target.write(start, scanner.sectors * sectorBytes, buffer, at * sectorBytes),
      )
    }
  }
}

async function writeOut(offset: number, run: () => Promise<void> | undefined): Promise<void> {
  try {
    await attempt(run)
  } catch (error) {
    throw errnoError(codeOf(error), `error while writing at byte ${offset}`, { cause: error })
  }
}

async function spoolAndConvert(
  layer: BlockLayer,
  reader: ChunkReader,
  format: string,
  options: ConvertFromSourceOptions,
): Promise<ConvertResult> {
  const { files } = layer.host
  const path = files.createTemporary('blockgraph')
  try {
    const file = await files.open(path, { write: true })
    try {
      await spool(reader, file)
    } finally {
      await attempt(() => file.close())
    }
    const { sourceFormat: _sourceFormat, ...rest } = options
    return await convertImage(layer, { ...rest, sources: [{ filename: path, format, label: '-' }] })
  } finally {
    files.unlink(path)
  }
}

async function spool(reader: ChunkReader, file: HostFile): Promise<void> {
  for (let offset = 0; reader.bytes > 0; await reader.fill()) {
    const { buffer, bytes } = reader
    const sectors = Math.floor(bytes / sectorBytes)
    // Whole chunks of zeroes become holes.
    if (bytes < chunkBytes || !new SectorScanner(buffer).allZero(sectors)) {
      const at = offset
      await attempt(() => file.write(at, bytes, buffer, 0))
    }
    offset += bytes
    if (file.size() < offset) {
      const length = offset
      await attempt(() => file.truncate(length))
    }
  }
}
