import { blockError } from '../errors/index.js'
import {
  type Backend,
  type BlockNode,
  backingChainNext,
  driverInfo,
  hasZeroInit,
  skipFilters,
} from '../graph/index.js'
import { ConvertPipeline } from './convert-pipeline.js'
import { ConvertPlan } from './convert-plan.js'
import type { SourceReader } from './convert-source.js'
import type { LongRun } from './long-run.js'
import { RateLimit } from './rate-limit.js'
import { sectorBytes } from './sectors.js'

export interface FillOptions extends LongRun {
  /** See `ConvertOptions`. */
  readonly progressByPlace?: boolean | undefined
  /** The target was just created for this. */
  readonly isNew: boolean
  /** What the target leaves unallocated shows its backing file. */
  readonly hasBacking: boolean
  readonly compress: boolean
  readonly copyOffload: boolean
  /** Bytes; see `ConvertOptions`. */
  readonly sparseBytes: number
  /** Whether data is searched for zeroes; otherwise only what the source's status says counts. */
  readonly scan: boolean
  readonly parallel: number
  readonly outOfOrder: boolean
  readonly targetIsZero: boolean
  /** Bytes per second. */
  readonly rateLimit: number | undefined
}

/** Bytes moved at a time, and the most that a target may ask for instead. */
const bufferBytes = 2 * 1024 * 1024
export const maxBufferBytes = 16 * 1024 * 1024

/** Fills an open target with the contents of the sources and returns the bytes that were data. */
export async function fillTarget(
  sources: SourceReader,
  target: Backend,
  options: FillOptions,
): Promise<number> {
  const node = skipFilters(target.node) ?? target.node
  if (options.compress && node.map?.writeCompressed === undefined) {
    throw blockError('ENOTSUP', 'Compression not supported for this file format')
  }
  if (!options.isNew && target.length < sources.length) {
    throw blockError('EINVAL', 'output file is smaller than input file')
  }
  const info = driverInfo(node)
  if (options.compress && info === undefined) {
    throw blockError('ENOTSUP', 'could not get block driver info')
  }
  const compress = options.compress || info?.needsCompressedWrites === true
  const clusterBytes = info?.clusterSize ?? 0
  const limits = node.limits
  const most = Math.max(bufferBytes, limits.optTransfer, limits.discardAlignment)
  const bytes = Math.floor(Math.min(maxBufferBytes, most) / sectorBytes) * sectorBytes
  if (compress && (clusterBytes < sectorBytes || clusterBytes > bytes)) {
    throw blockError('EINVAL', 'invalid cluster size')
  }
  const step = compress ? clusterBytes : bytes
  const plan = new ConvertPlan(sources, {
    bufferBytes: step,
    compress,
    clusterBytes,
    targetHasBacking: options.hasBacking,
    targetBackingLength: options.hasBacking ? backingChainNext(node)?.length : undefined,
  })
  const freshIsZero =
    options.isNew && options.sparseBytes > 0 && !options.hasBacking && hasZeroInit(target.node)
  const pipeline = new ConvertPipeline(sources, plan, target, {
    signal: options.signal,
    progress: options.progress,
    progressByPlace: options.progressByPlace === true,
    bufferBytes: step,
    compress,
    copyOffload: options.copyOffload,
    parallel: options.parallel,
    outOfOrder: options.outOfOrder,
    sparseBytes: options.sparseBytes,
    scan: options.scan,
    clusterBytes: Math.max(1, clusterBytes),
    alignment: writeAlignment(target.node, options.sparseBytes),
    targetIsZero: options.targetIsZero || freshIsZero,
    rateLimit: options.rateLimit === undefined ? undefined : new RateLimit(options.rateLimit),
  })
  await pipeline.run()
  return pipeline.dataBytes
}

/** What writes should start and end at so that the target need not read first. Bytes, a power of two. */
function writeAlignment(node: BlockNode, sparseBytes: number): number {
  const sparse = sparseBytes === 0 ? sectorBytes : 2 ** Math.floor(Math.log2(sparseBytes))
  return Math.max(sectorBytes, sparse, node.limits.requestAlignment)
}
