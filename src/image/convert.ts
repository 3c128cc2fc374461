import { blockError, prefixed } from '../errors/index.js'
import { type Backend, type BlockLayer, createWithDriver } from '../graph/index.js'
import { storeBitmaps } from './bitmap.js'
import { canCompress } from './can-compress.js'
import { type BitmapCopy, checkSourceBitmaps, checkTargetBitmaps, copyBitmaps } from './convert-bitmaps.js'
import { fillTarget, maxBufferBytes } from './convert-fill.js'
import { ConvertSources } from './convert-source.js'
import { NewImagePlace } from './convert-target.js'
import { setBackingOptions } from './create.js'
import { type CreateOptionInput, CreateOptions, createTarget } from './create-options.js'
import { type LongRun, throwIfAborted } from './long-run.js'
import { cacheModeOf, type ImageSpec, imageLabel, openImage } from './open.js'
import { sectorBytes } from './sectors.js'
import { type SnapshotWanted, showSnapshot } from './snapshot.js'

export interface ConvertOptions extends LongRun, BitmapCopy {
  /**
   * `progress` tells the place in the sources instead of the data copied: a first pass over their maps, which adds
   * up the data, is left out.
   */
  readonly progressByPlace?: boolean | undefined
  /** Concatenated in order. */
  readonly sources: readonly (ImageSpec | string)[]
  /** A new file or, with `skipCreate`, an image that exists; given by its `options` as for `--target-image-opts`. */
  readonly target: ImageSpec | string
  /** Target format; default `raw`, or what the target's own options say. */
  readonly format?: string | undefined
  /** `-o`. */
  readonly options?: CreateOptionInput | undefined
  /** `-B` and `-F`: what the target leaves unallocated is read from this image. */
  readonly backing?: { readonly file: string; readonly format?: string | undefined } | undefined
  /** `-c`. */
  readonly compress?: boolean | undefined
  /** `-C`: copy inside the kernel where both sides can. */
  readonly copyOffload?: boolean | undefined
  /** `-S`: zeroes of at least this many bytes become holes; default 4096; 0 keeps the target fully allocated. */
  readonly sparseSize?: number | undefined
  /** `-m`: requests in flight, 1 to 16; default 8. */
  readonly parallel?: number | undefined
  /** `-W`: write in any order. */
  readonly outOfOrder?: boolean | undefined
  /** `-n`: the target exists. */
  readonly skipCreate?: boolean | undefined
  /** `--target-is-zero`; needs `skipCreate`. */
  readonly targetIsZero?: boolean | undefined
  /** `-l`: an internal snapshot of the only source. */
  readonly snapshot?: SnapshotWanted | undefined
  /** `-r`: bytes per second written to the target at most. */
  readonly rateLimit?: number | undefined
  /** `--salvage`: unreadable sectors become zeroes, with a warning each. */
  readonly salvage?: boolean | undefined
  /** `-q`: no warnings from salvaging. */
  readonly quiet?: boolean | undefined
  /** `-t`; default `unsafe`. */
  readonly cache?: string | undefined
  /** `-T`; default `writeback`. */
  readonly sourceCache?: string | undefined
  /** Called with the text of warnings; default: `warning: …` through `host.warn`. */
  readonly warn?: ((text: string) => void) | undefined
}

export interface ConvertResult {
  /** Guest bytes of the sources together. */
  readonly size: number
  /** Bytes that were read as data; the rest was known to be zero or to be in the backing file. */
  readonly dataBytes: number
}

const maxParallel = 16

/**
 * Converts images: `qemu-img convert`.
 *
 * A target that is a plain new file appears under its name when it is complete, see
 * {@link NewImagePlace}; so whatever goes wrong leaves nothing half-written there. A file that existed
 * before is overwritten in place, as QEMU does, but not before sources and options have been checked.
 *
 * @throws BlockError with QEMU's text.
 */
export async function convertImage(layer: BlockLayer, options: ConvertOptions): Promise<ConvertResult> {
  checkCombination(options)
  throwIfAborted(options.signal)
  const warn = options.warn ?? ((text: string) => layer.host.warn(`warning: ${text}`))
  const sources = await ConvertSources.open(layer, options.sources, {
    cache: options.sourceCache ?? 'writeback',
    salvage: options.salvage === true,
    warn: options.quiet === true ? () => undefined : warn,
  })
  try {
    return await convertSources(layer, sources, options)
  } finally {
    await sources.close()
  }
}

/** Converts sources that are open already; the caller closes them. */
export async function convertSources(
  layer: BlockLayer,
  sources: ConvertSources,
  options: ConvertOptions,
): Promise<ConvertResult> {
  if (options.snapshot !== undefined) {
    if (typeof options.snapshot === 'string' && sources.count > 1) {
      refuse('No support for concatenating multiple snapshot')
    }
    await showSnapshot(sources.first, options.snapshot)
  }
  const values = options.skipCreate === true ? undefined : createValues(layer, sources, options)
  const backing = values?.text('backing_file') ?? options.backing?.file
  checkTarget(sources, options, values, backing)
  if (options.bitmaps === true) {
    if (sources.count > 1) {
      refuse('Copying bitmaps only possible with single source')
    }
    checkSourceBitmaps(sources.first, options)
  }
  if (values === undefined) {
    return await convertInto(layer, sources, options, options.target, backing !== undefined)
  }
  const { driver } = values.target
  const filename = imageLabel(options.target)
  const place = new NewImagePlace(layer, driver, filename)
  if (options.compress === true && place.overwrites && !(await canCompress(layer, values))) {
    throw blockError('ENOTSUP', 'Compression not supported for this file format')
  }
  try {
    try {
      place.hasMade(await createWithDriver(layer, driver, place.workName, values.values()))
    } catch (error) {
      throw prefixed(error, `${filename}: error while converting ${driver.name}: `)
    }
    const target = {
      filename: place.workName,
      format: driver.name,
      label: filename,
      options: values.keySecrets(),
    }
    const result = await convertInto(layer, sources, options, target, backing !== undefined)
    place.commit()
    return result
  } catch (error) {
    place.rollback()
    throw place.named(error)
  }
}

function refuse(text: string): never {
  throw blockError('EINVAL', text)
}

/** What can be said about the options before anything is opened. */
function checkCombination(options: ConvertOptions): void {
  const { parallel = 8, sparseSize = 4096 } = options
  if (!Number.isInteger(parallel) || parallel < 1 || parallel > maxParallel) {
    refuse(`Invalid number of coroutines. Allowed number of coroutines is between 1 and ${maxParallel}`)
  }
  if (!(sparseSize >= 0 && sparseSize <= maxBufferBytes && sparseSize % sectorBytes === 0)) {
    refuse(
      'Invalid buffer size for sparse output specified. Valid sizes are multiples of ' +
        `${sectorBytes} up to ${maxBufferBytes}. Select 0 to disable sparse detection ` +
        '(fully allocates output).',
    )
  }
  if (options.copyOffload === true) {
    if (options.compress === true) {
      refuse('Cannot enable copy offloading when -c is used')
    }
    if (options.sparseSize !== undefined) {
      refuse('Cannot enable copy offloading when -S is used')
    }
    if (options.salvage === true) {
      refuse('Cannot use copy offloading in salvaging mode')
    }
  }
  const byOptions = typeof options.target !== 'string' && options.target.options !== undefined
  if (byOptions && options.skipCreate !== true) {
    refuse('--target-image-opts requires use of -n flag')
  }
  if (options.skipCreate === true && options.options !== undefined) {
    refuse('-o has no effect when skipping image creation')
  }
  if (options.skipBrokenBitmaps === true && options.bitmaps !== true) {
    refuse('Use of --skip-broken-bitmaps requires --bitmaps')
  }
  if (options.targetIsZero === true && options.skipCreate !== true) {
    refuse('--target-is-zero requires use of -n flag')
  }
  if (options.sources.length === 0) {
    refuse('Must specify image file name')
  }
  cacheModeOf(options.sourceCache ?? 'writeback', 'source')
}

/** The create options of the new target. */
function createValues(layer: BlockLayer, sources: ConvertSources, options: ConvertOptions): CreateOptions {
  const format = options.format ?? 'raw'
  const values = new CreateOptions(createTarget(layer, format, imageLabel(options.target)), options.options)
  values.set('size', sources.length)
  setBackingOptions(values, format, options.backing?.file, options.backing?.format)
  return values
}

function checkTarget(
  sources: ConvertSources,
  options: ConvertOptions,
  values: CreateOptions | undefined,
  backing: string | undefined,
): void {
  if (options.targetIsZero === true && backing !== undefined) {
    refuse('Cannot use --target-is-zero when the destination image has a backing file')
  }
  if (sources.count > 1 && backing !== undefined) {
    refuse('Having a backing file for the target makes no sense when concatenating multiple input images')
  }
  if (values === undefined) {
    return
  }
  if (backing !== undefined && values.text('backing_fmt') === undefined) {
    refuse('Use of backing file requires explicit backing format')
  }
  if (options.compress === true) {
    if (values.flag('encryption') || values.text('encrypt.format') !== undefined) {
      refuse('Compression and encryption not supported at the same time')
    }
    if ((values.text('preallocation') ?? 'off') !== 'off') {
      refuse('Compression and preallocation not supported at the same time')
    }
  }
  cacheModeOf(options.cache ?? 'unsafe', 'target')
}

/** Opens the target and fills it. */
async function convertInto(
  layer: BlockLayer,
  sources: ConvertSources,
  options: ConvertOptions,
  spec: ImageSpec | string,
  hasBacking: boolean,
): Promise<ConvertResult> {
  const cache = options.cache ?? 'unsafe'
  const { direct } = cacheModeOf(cache, 'target')
  const sparseBytes = options.sparseSize ?? 4096
  const named = typeof spec === 'string' ? { filename: spec } : spec
  const byOptions = named.filename === undefined
  const image = byOptions ? named : { ...named, format: named.format ?? options.format ?? 'raw' }
  const target = await openImage(layer, image, {
    write: true,
    unmap: sparseBytes > 0,
    // With O_DIRECT the end of a file may have to move to a whole block.
    resize: direct,
    cache,
    cacheOf: 'target',
  })
  let dataBytes: number
  try {
    if (options.bitmaps === true) {
      checkTargetBitmaps(target.node)
    }
    dataBytes = await fillTarget(sources, target, {
      signal: options.signal,
      progress: options.progress,
      progressByPlace: options.progressByPlace === true,
      isNew: options.skipCreate !== true,
      hasBacking,
      compress: options.compress === true,
      copyOffload: options.copyOffload === true,
      sparseBytes,
      scan: sparseBytes > 0,
      parallel: options.parallel ?? 8,
      outOfOrder: options.outOfOrder === true,
      targetIsZero: options.targetIsZero === true,
      rateLimit: options.rateLimit,
    })
    if (options.bitmaps === true) {
      const warn = options.warn ?? ((text: string) => layer.host.warn(`warning: ${text}`))
      await copyBitmaps(sources.first, target.node, warn)
      await storeBitmaps(target.node)
    }
    const wait = target.flush()
    if (wait !== undefined) {
      await wait
    }
  } catch (error) {
    await closeQuietly(target)
    throw error
  }
  await target.close()
  return { size: sources.length, dataBytes }
}

/** Closes after a failure: it is the failure that counts. */
export async function closeQuietly(target: Backend): Promise<void> {
  try {
    await target.close()
  } catch (error) {
    if (!(error instanceof Error)) {
      throw error
    }
  }
}
