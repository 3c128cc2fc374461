import { Backend, type BlockDriver, type BlockLayer, createWithDriver, driverInfo } from '../graph/index.js'
import { attempt } from '../sched/index.js'
import { type ConvertResult, convertImage } from './convert.js'
import { fillTarget } from './convert-fill.js'
import { ConvertSources, type SourceReader, type SourceStatus } from './convert-source.js'
import { type CreateOptionInput, CreateOptions, createTarget } from './create-options.js'
import { type LongRun, throwIfAborted } from './long-run.js'
import type { ImageSpec } from './open.js'
import { RecordedContents } from './stream-contents.js'
import { type BufferOrigin, recorderName, recordingLayer } from './stream-recorder.js'

/** A forward-only receiver of bytes, such as a pipe. The chunk must stay as it is until the promise settles. */
export interface ByteSink {
  write(chunk: Uint8Array): Promise<void> | undefined
}

export interface ConvertToSinkOptions extends LongRun {
  readonly sources: readonly (ImageSpec | string)[]
  /** Target format; default `raw`. */
  readonly format?: string | undefined
  readonly options?: CreateOptionInput | undefined
  /** `-c`. The image is then made in a temporary file first, since nobody can know its layout before. */
  readonly compress?: boolean | undefined
  /** `-S`; default 4096. 0 takes the source's word for what is zero. */
  readonly sparseSize?: number | undefined
  /** `-T`; default `writeback`. */
  readonly sourceCache?: string | undefined
}

/** Bytes written at a time. */
const chunkBytes = 2 * 1024 * 1024

/**
 * Converts images to a stream that only goes forward (`convert … -`); holes are sent as zeroes.
 *
 * The target's format driver first works out the layout on a file that keeps only metadata and notes
 * for guest data where it comes from; then the file is sent in order. If the source's map tells data
 * from zeroes, its contents are read once; otherwise a pass before that looks for zeroes. Memory
 * grows with the target's metadata: about 130 MB for a TiB of qcow2 data.
 *
 * @throws BlockError with QEMU's text
 */
export async function convertToSink(
  layer: BlockLayer,
  sink: ByteSink,
  options: ConvertToSinkOptions,
): Promise<ConvertResult> {
  const contents = new RecordedContents()
  const origin = new BufferOrigins()
  const work = recordingLayer(layer, contents, origin)
  const target = createTarget(work, options.format ?? 'raw', recorderName)
  const values = new CreateOptions(target, options.options)
  const encrypted = Object.keys(values.values()).some((name) => name.startsWith('encrypt'))
  const streamed = await streamDirectly(layer, sink, options, target.driver, values)
  if (streamed !== undefined) {
    return streamed
  }
  if (options.compress === true || encrypted) {
    return await sendSpooled(layer, sink, options)
  }
  const sources = await ConvertSources.open(layer, options.sources, {
    cache: options.sourceCache ?? 'writeback',
    salvage: false,
    warn: () => undefined,
  })
  try {
    origin.sources = sources
    values.set('size', sources.length)
    await createWithDriver(work, target.driver, recorderName, values.values())
    const dataBytes = await record(work, sources, origin, target.driver, options)
    await send(contents, sink, sources, options)
    return { size: sources.length, dataBytes }
  } finally {
    await work.closeAll()
    await sources.close()
  }
}

/** Has the driver write the image forward-only by itself, if it can with these options. */
async function streamDirectly(
  layer: BlockLayer,
  sink: ByteSink,
  options: ConvertToSinkOptions,
  driver: BlockDriver,
  values: CreateOptions,
): Promise<ConvertResult | undefined> {
  const { stream } = await driver.load()
  if (stream === undefined) {
    return undefined
  }
  const sources = await ConvertSources.open(layer, options.sources, {
    cache: options.sourceCache ?? 'writeback',
    salvage: false,
    warn: () => undefined,
  })
  try {
    let dataBytes = 0
    values.set('size', sources.length)
    const done = stream({
      host: layer.host,
      options: values.values(),
      length: sources.length,
      name: `disk.${driver.name}`,
      ask: async (offset) => {
        const found = await sources.ask(offset, sources.length - offset, false)
        return { bytes: sources.extentBytes, zero: found !== 'data' }
      },
      read: async (offset, bytes, buffer, bufferOffset) => {
        dataBytes += bytes
        await sources.read(offset, bytes, buffer, bufferOffset)
      },
      write: (chunk) => sink.write(chunk),
      progress: (offset) => {
        throwIfAborted(options.signal)
        options.progress?.(offset, sources.length)
      },
    })
    if (done === undefined) {
      return undefined
    }
    await done
    return { size: sources.length, dataBytes }
  } finally {
    await sources.close()
  }
}

/** Knows the buffers of the conversion and what of the source is in them. */
class BufferOrigins implements BufferOrigin {
  readonly #places = new Map<Uint8Array, number>()
  sources: ConvertSources | undefined

  note(buffer: Uint8Array, offset: number): void {
    this.#places.set(buffer, offset)
  }

  originOf(buffer: Uint8Array): number | undefined {
    return this.#places.get(buffer)
  }

  async read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    await this.sources?.read(offset, bytes, buffer, bufferOffset)
  }
}

/** Reads only what somebody will look at and notes where buffers come from. */
class RecordingSource implements SourceReader {
  readonly #sources: ConvertSources
  readonly #origin: BufferOrigins
  /** What starts and ends at multiples of this needs no reading, bytes; 0: read everything. */
  readonly #blind: number

  constructor(sources: ConvertSources, origin: BufferOrigins, blind: number) {
    this.#sources = sources
    this.#origin = origin
    this.#blind = blind
  }

  get length(): number {
    return this.#sources.length
  }

  get extentBytes(): number {
    return this.#sources.extentBytes
  }

  async ask(offset: number, bytes: number, aboveBacking: boolean): Promise<SourceStatus> {
    return await this.#sources.ask(offset, bytes, aboveBacking)
  }

  async read(offset: number, bytes: number, buffer: Uint8Array): Promise<void> {
    this.#origin.note(buffer, offset)
    // Parts of clusters are copied together with what is around them, so they must be there.
    const whole = this.#blind !== 0 && offset % this.#blind === 0 && bytes % this.#blind === 0
    if (!whole) {
      await this.#sources.read(offset, bytes, buffer)
    }
  }

  async copyTo(): Promise<boolean> {
    return false
  }
}

/** Has the driver lay out the image; returns the bytes of data. */
async function record(
  work: BlockLayer,
  sources: ConvertSources,
  origin: BufferOrigins,
  driver: BlockDriver,
  options: ConvertToSinkOptions,
): Promise<number> {
  const target = await Backend.open(work, recorderName, { driver: driver.name }, { write: true })
  try {
    const clusterBytes = driverInfo(target.node)?.clusterSize ?? 0
    const { sparseSize = 4096, signal } = options
    // On a pipe, zeroes in a format without clusters are as long as data: no need to look for them.
    const scan = sparseSize > 0 && clusterBytes > 0 && !(await tellsZeroes(sources, signal))
    const source = new RecordingSource(sources, origin, scan ? 0 : Math.max(512, clusterBytes))
    return await fillTarget(source, target, {
      signal,
      isNew: true,
      hasBacking: false,
      compress: false,
      copyOffload: false,
      sparseBytes: sparseSize === 0 ? 4096 : sparseSize,
      scan,
      parallel: 4,
      outOfOrder: false,
      targetIsZero: false,
      rateLimit: undefined,
    })
  } finally {
    await target.close()
  }
}

/** Whether the sources' map knows of anything that is zero. */
async function tellsZeroes(sources: SourceReader, signal: AbortSignal | undefined): Promise<boolean> {
  for (let offset = 0; offset < sources.length; offset += sources.extentBytes) {
    throwIfAborted(signal)
    if ((await sources.ask(offset, sources.length - offset, false)) !== 'data') {
      return true
    }
  }
  return false
}

/** Sends the recorded file in order; the next chunk is read while one is being written. */
async function send(
  contents: RecordedContents,
  sink: ByteSink,
  sources: ConvertSources,
  options: LongRun,
): Promise<void> {
  const buffers = [new Uint8Array(chunkBytes), new Uint8Array(chunkBytes)] as const
  let writing: Promise<void> = Promise.resolve()
  try {
    for (let offset = 0, turn = 0; offset < contents.size; turn = 1 - turn) {
      throwIfAborted(options.signal)
      options.progress?.(offset, contents.size)
      const buffer = turn === 0 ? buffers[0] : buffers[1]
      const bytes = Math.min(chunkBytes, contents.size - offset)
      for (let done = 0; done < bytes; ) {
        const run = contents.runAt(offset + done, bytes - done)
        if (run.source === undefined) {
          contents.readPages(offset + done, run.bytes, buffer, done)
        } else {
          await sources.read(run.source, run.bytes, buffer, done)
        }
        done += run.bytes
      }
      await writing
      writing = attempt(() => sink.write(buffer.subarray(0, bytes)))
      // A failure is looked at when the next chunk is ready.
      writing.catch(() => undefined)
      offset += bytes
    }
  } finally {
    await writing
  }
  options.progress?.(contents.size, contents.size)
}

/** Makes the image in a temporary file and sends that. */
async function sendSpooled(
  layer: BlockLayer,
  sink: ByteSink,
  options: ConvertToSinkOptions,
): Promise<ConvertResult> {
  const { files } = layer.host
  const path = files.createTemporary('blockgraph')
  try {
    const { progress: _progress, ...rest } = options
    const result = await convertImage(layer, { ...rest, target: path })
    const spool = await ConvertSources.open(layer, [{ filename: path, options: { driver: 'raw' } }], {
      cache: 'writeback',
      salvage: false,
      warn: () => undefined,
    })
    try {
      const contents = new RecordedContents()
      contents.refer(0, files.stat(path)?.size ?? 0, 0)
      await send(contents, sink, spool, options)
    } finally {
      await spool.close()
    }
    return result
  } finally {
    files.unlink(path)
  }
}
