import { type BlockLayer, parseCacheMode } from '../../../graph/index.js'
import {
  type ConvertOptions,
  convertFromSource,
  convertImage,
  convertToSink,
  type SnapshotWanted,
} from '../../../image/index.js'
import { escapeOptionValue, hasHelpOption, parseInteger } from '../../../options/index.js'
import { ProgressMeter, type ProgressStyle } from '../../progress.js'
import { imageOptions } from '../image-options.js'
import { progressStyle } from '../progress-option.js'
import { snapshotOption } from '../snapshot-option.js'
import { flag, type ImageArguments, type ImgCommand, type ImgTool, valued } from '../tool.js'
import { printOptionHelp, warnOfOptions } from './create.js'

const sectorBytes = 512
const maxSparseBytes = 32768 * sectorBytes
const maxCoroutines = 16

/** What the command line says. */
interface Request {
  image: ImageArguments
  outputFormat?: string
  backingFile?: string
  backingFormat?: string
  options?: string
  snapshot?: SnapshotWanted
  sparseSize?: number
  rateLimit?: number
  parallel?: number
  cache?: string
  sourceCache?: string
  style: ProgressStyle
  flags: Set<string>
}

/** `convert`: copies images into another one, of another format if wanted. */
export const convert: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    const request: Request = { image: {}, style: 'none', flags: new Set() }
    const operands = await tool.readOptions(argv, {
      short: ':hf:O:B:CcF:o:l:S:pt:T:qnm:WUr:',
      long: [
        valued('object'),
        flag('image-opts'),
        flag('force-share', 'U'),
        flag('target-image-opts'),
        flag('salvage'),
        flag('target-is-zero'),
        flag('bitmaps'),
        flag('skip-broken-bitmaps'),
        valued('progress'),
      ],
      option: ({ option, argument }) => readOption(tool, request, option, argument),
    })
    checkCombination(tool, request)
    const sources = operands.slice(0, -1)
    const target = operands.length > 1 ? operands.at(-1) : undefined
    const { options, flags } = request
    const targetFormat = request.outputFormat ?? (flags.has('target-image-opts') ? undefined : 'raw')
    if (options !== undefined && hasHelpOption(options)) {
      if (targetFormat === undefined) {
        tool.fail('Option help requires a format be specified')
      }
      return await printOptionHelp(tool, targetFormat, target)
    }
    if (target === undefined) {
      tool.fail('Must specify image file name')
    }
    const cache = request.sourceCache
    if (cache !== undefined && parseCacheMode(cache) === undefined) {
      tool.fail(`Invalid source cache option: ${cache}`)
    }
    return await copy(tool, request, sources, target, targetFormat)
  },
}

function readOption(tool: ImgTool, request: Request, option: string, argument: string): void {
  request.image = imageOptions(request.image, { option, argument })
  switch (option) {
    case 'O':
      request.outputFormat = argument
      break
    case 'B':
      request.backingFile = argument
      break
    case 'F':
      request.backingFormat = argument
      break
    case 'o':
      request.options = tool.appendOptions(request.options, argument)
      break
    case 'l':
      request.snapshot = snapshotOption(tool, argument)
      break
    case 'S':
      request.sparseSize = sparseSize(tool, argument)
      break
    case 'p':
      request.style = 'people'
      break
    case 'progress':
      request.style = progressStyle(tool, argument)
      break
    case 't':
      request.cache = argument
      break
    case 'T':
      request.sourceCache = argument
      break
    case 'm':
      request.parallel = coroutines(tool, argument)
      break
    case 'r':
      request.rateLimit = tool.size('rate limit', argument)
      break
    default:
      request.flags.add(option)
  }
}

function sparseSize(tool: ImgTool, text: string): number {
  const size = tool.size('buffer size for sparse output', text)
  if (size % sectorBytes !== 0 || size > maxSparseBytes) {
    tool.fail(
      'Invalid buffer size for sparse output specified. Valid sizes are multiples of ' +
        `${sectorBytes} up to ${maxSparseBytes}. Select 0 to disable sparse detection ` +
        '(fully allocates output).',
    )
  }
  return size
}

function coroutines(tool: ImgTool, text: string): number {
  const value = parseInteger(text)
  if (typeof value !== 'bigint' || value < 1n || value > BigInt(maxCoroutines)) {
    tool.fail(`Invalid number of coroutines. Allowed number of coroutines is between 1 and ${maxCoroutines}`)
  }
  return Number(value)
}

/** Combinations that make no sense; ends the program. */
function checkCombination(tool: ImgTool, { flags, sparseSize: sparse, options }: Request): void {
  const refuse = (condition: boolean, text: string): void => {
    if (condition) {
      tool.fail(text)
    }
  }
  const offload = flags.has('C')
  refuse(
    flags.has('skip-broken-bitmaps') && !flags.has('bitmaps'),
    'Use of --skip-broken-bitmaps requires --bitmaps',
  )
  refuse(offload && flags.has('c'), 'Cannot enable copy offloading when -c is used')
  refuse(offload && sparse !== undefined, 'Cannot enable copy offloading when -S is used')
  refuse(offload && flags.has('salvage'), 'Cannot use copy offloading in salvaging mode')
  const exists = flags.has('n')
  refuse(flags.has('target-image-opts') && !exists, '--target-image-opts requires use of -n flag')
  refuse(exists && options !== undefined, '-o has no effect when skipping image creation')
  refuse(flags.has('target-is-zero') && !exists, '--target-is-zero requires use of -n flag')
}

async function copy(
  tool: ImgTool,
  request: Request,
  sources: readonly string[],
  target: string,
  targetFormat: string | undefined,
): Promise<number> {
  const { flags, image } = request
  const { context } = tool
  const quiet = flags.has('q')
  const toSink = target === '-' && !flags.has('n')
  const fromSource = sources.includes('-')
  const style = quiet || (toSink && request.style === 'people') ? 'none' : request.style
  const meter = new ProgressMeter(context, { style, step: 1, stdoutTaken: toSink })
  meter.start()
  try {
    const layer = await tool.layer()
    context.spareMemory?.()
    const options = createOptions(tool, layer, request, targetFormat ?? 'raw')
    const long = { signal: context.signal, progress: meter.update }
    if (toSink) {
      refuseForStream(tool, request, fromSource)
      await convertToSink(layer, context.sink, {
        ...long,
        sources: sources.map((name) => tool.imageSpec(name, image)),
        format: targetFormat,
        options,
        compress: flags.has('c'),
        sparseSize: request.sparseSize,
        sourceCache: request.sourceCache,
      })
      return 0
    }
    const byOptions = flags.has('target-image-opts')
    const common: Omit<ConvertOptions, 'sources'> = {
      ...long,
      // Nobody looks, unless a signal asks.
      progressByPlace: style === 'none',
      target: tool.imageSpec(target, byOptions ? { imageOpts: true, format: targetFormat } : {}),
      format: targetFormat,
      options,
      backing:
        request.backingFile === undefined
          ? undefined
          : { file: request.backingFile, format: request.backingFormat },
      compress: flags.has('c'),
      copyOffload: flags.has('C'),
      sparseSize: request.sparseSize,
      parallel: request.parallel,
      outOfOrder: flags.has('W'),
      skipCreate: flags.has('n'),
      targetIsZero: flags.has('target-is-zero'),
      snapshot: request.snapshot,
      rateLimit: request.rateLimit,
      salvage: flags.has('salvage'),
      bitmaps: flags.has('bitmaps'),
      skipBrokenBitmaps: flags.has('skip-broken-bitmaps'),
      quiet,
      cache: request.cache,
      sourceCache: request.sourceCache,
      warn: (text) => tool.warn(text),
    }
    if (fromSource) {
      if (sources.length > 1) {
        tool.fail('Standard input cannot be joined with other images')
      }
      await convertFromSource(layer, context.source, { ...common, sourceFormat: image.format })
    } else {
      await convertImage(layer, { ...common, sources: sources.map((name) => tool.imageSpec(name, image)) })
    }
    meter.finish()
    return 0
  } catch (error) {
    tool.report(error)
    return 1
  } finally {
    meter.end()
  }
}

/** The create options as text; `-F` without `-B` is one of them. */
function createOptions(
  tool: ImgTool,
  layer: BlockLayer,
  { options, backingFile, backingFormat }: Request,
  format: string,
): string | undefined {
  const driver = layer.findFormat(format)
  const schema = { ...layer.findFormat('file')?.createOptions, ...driver?.createOptions }
  warnOfOptions(tool, schema, options)
  if (backingFormat === undefined || backingFile !== undefined || driver?.createOptions === undefined) {
    return options
  }
  if (!Object.hasOwn(schema, 'backing_fmt')) {
    tool.fail(`Backing file format not supported for file format '${format}'`)
  }
  return tool.appendOptions(options, `backing_fmt=${escapeOptionValue(backingFormat)}`)
}

/** What cannot be done to standard output. */
function refuseForStream(tool: ImgTool, request: Request, fromSource: boolean): void {
  const refuse = (given: boolean, what: string): void => {
    if (given) {
      tool.fail(`${what} cannot be used when writing to standard output`)
    }
  }
  if (tool.context.terminal !== undefined) {
    tool.fail('Image data is not written to a terminal')
  }
  refuse(fromSource, 'Standard input')
  refuse(request.backingFile !== undefined, 'A backing file (-B)')
  refuse(request.snapshot !== undefined, 'A snapshot (-l)')
  refuse(request.rateLimit !== undefined, 'A rate limit (-r)')
  refuse(request.flags.has('salvage'), '--salvage')
  refuse(request.flags.has('C'), 'Copy offloading (-C)')
  refuse(request.flags.has('bitmaps'), '--bitmaps')
}
