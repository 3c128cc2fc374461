import { blockError, codeOf, prefixed, strerror } from '../errors/index.js'
import { type Backend, type BlockLayer, createWithDriver } from '../graph/index.js'
import { TimeSlice } from '../sched/index.js'
import { NewImagePlace } from './convert-target.js'
import { CreateOptions, createTarget } from './create-options.js'
import { type LongRun, throwIfAborted } from './long-run.js'
import { type ImageSpec, imageLabel, openImage } from './open.js'

export interface DdOptions extends LongRun {
  readonly source: ImageSpec | string
  readonly target: string
  /** Target format; default `raw`. */
  readonly format?: string | undefined
  /** Bytes in a block; default 512. */
  readonly blockSize?: number | undefined
  /** Blocks of the source to look at, counted from its start as `qemu-img dd` does: skipped ones count. */
  readonly count?: number | undefined
  /** Blocks to leave out at the start of the source. */
  readonly skip?: number | undefined
  /** Called with texts that `qemu-img dd` prints without failing; default: through `host.warn`. */
  readonly warn?: ((text: string) => void) | undefined
}

/** Most bytes moved at a time. */
const maxChunkBytes = 2 * 1024 * 1024

/**
 * Copies a part of an image into a new one: `qemu-img dd`. Everything is written as data. Skipping
 * more than there is leaves an empty image and warns `%s: cannot skip to specified offset`. What is
 * said of the target of `convertImage` holds here too.
 *
 * @throws BlockError with QEMU's text.
 */
export async function ddImage(layer: BlockLayer, options: DdOptions): Promise<{ readonly bytes: number }> {
  const source = await openImage(layer, options.source)
  try {
    return await copyPart(layer, source, options)
  } finally {
    await source.close()
  }
}

/** The part of the source to copy, bytes. */
interface Part {
  readonly start: number
  readonly end: number
  /** The start lies past the end. */
  readonly beyond: boolean
}

function partOf(length: number, options: DdOptions): Part {
  const block = options.blockSize ?? 512
  const end = Math.min(length, (options.count ?? Number.POSITIVE_INFINITY) * block)
  const start = (options.skip ?? 0) * block
  return start > end ? { start: end, end, beyond: true } : { start, end, beyond: false }
}

async function copyPart(
  layer: BlockLayer,
  source: Backend,
  options: DdOptions,
): Promise<{ readonly bytes: number }> {
  const format = options.format ?? 'raw'
  const values = new CreateOptions(createTarget(layer, format, options.target), undefined)
  const part = partOf(source.length, options)
  const bytes = part.end - part.start
  values.set('size', bytes)
  const place = new NewImagePlace(layer, values.target.driver, options.target)
  try {
    try {
      place.hasMade(await createWithDriver(layer, values.target.driver, place.workName, values.values()))
    } catch (error) {
      throw prefixed(error, `${options.target}: error while creating output image: `)
    }
    const spec = { filename: place.workName, format, label: options.target }
    const target = await openImage(layer, spec, { write: true })
    if (part.beyond) {
      const text = `${imageLabel(options.source)}: cannot skip to specified offset`
      const warn = options.warn ?? ((line: string) => layer.host.warn(line))
      warn(text)
    }
    try {
      await move(source, target, part, options)
    } finally {
      await target.close()
    }
    place.commit()
  } catch (error) {
    place.rollback()
    throw place.named(error)
  }
  return { bytes }
}

async function move(source: Backend, target: Backend, part: Part, options: DdOptions): Promise<void> {
  const total = part.end - part.start
  const buffer = new Uint8Array(Math.min(total, maxChunkBytes))
  const slice = new TimeSlice()
  for (let done = 0; done < total; ) {
    throwIfAborted(options.signal)
    options.progress?.(done, total)
    const bytes = Math.min(buffer.length, total - done)
    await io('reading from input', () => source.read(part.start + done, bytes, buffer))
    await io('writing to output', () => target.write(done, bytes, buffer))
    done += bytes
    const pause = slice.breathe()
    if (pause !== undefined) {
      await pause
    }
  }
  options.progress?.(total, total)
}

async function io(what: string, run: () => Promise<void> | undefined): Promise<void> {
  try {
    const wait = run()
    if (wait !== undefined) {
      await wait
    }
  } catch (error) {
    const code = codeOf(error)
    throw blockError(code, `error while ${what} image file: ${strerror(code)}`, { cause: error })
  }
}
