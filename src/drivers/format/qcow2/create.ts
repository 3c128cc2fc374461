import { type BlockError, blockError, codeOf, errnoError, prefixed } from '../../../errors/index.js'
import { type BlockNode, type CreateContext, truncateNode } from '../../../graph/index.js'
import {
  Autoclear,
  Compatible,
  CompressionType,
  extendedEntryBytes,
  headerLengthV2,
  headerLengthV3,
  Incompatible,
  maxBackingFileBytes,
  maxL1Bytes,
  tableEntryBytes,
} from './constants.js'
import { checkCreateOptions, type Qcow2CreateOptions } from './create-options.js'
import { type FreshCrypto, prepareEncryption } from './crypto-create.js'
import { type Qcow2Header, serializeHeader } from './header.js'
import { Qcow2Image } from './image.js'

/** Clusters of every fresh image: header, refcount table, first refcount block. */
const fixedClusters = 3

/**
 * Creates an image with the layout QEMU gives it: header, refcount table, refcount block, L1 table.
 *
 * @throws BlockError with QEMU's text; the core removes the file then
 */
export async function create(context: CreateContext): Promise<void> {
  const options = checkCreateOptions(context.options)
  if (context.exact === true && options.size !== (context.options.size ?? options.size)) {
    throw blockError('EINVAL', 'Image size must be a multiple of 512 bytes')
  }
  const { clusterSize, size } = options
  const entryBytes = options.extendedL2 ? extendedEntryBytes : tableEntryBytes
  const l1Size = Math.ceil(size / (clusterSize * (clusterSize / entryBytes)))
  if (l1Size > maxL1Bytes / tableEntryBytes) {
    throw errnoError('EFBIG', 'Could not resize image: Failed to grow the L1 table')
  }
  const header = freshHeader(options)
  const clusters = fixedClusters + Math.ceil((l1Size * tableEntryBytes) / clusterSize)
  const simple =
    options.dataFile === undefined &&
    options.encrypt === undefined &&
    options.preallocation === 'off' &&
    clusters <= refcountsPerBlock(header)
  // Everything that can be refused is refused before the file exists.
  const named = withBacking(header, options)
  const crypto =
    options.encrypt === undefined ? undefined : await prepareEncryption(context.layer, options.encrypt)
  const file = await context.createFile(0)
  const data =
    options.dataFile === undefined ? undefined : await context.createFurtherFile(options.dataFile, 0)
  if (simple) {
    setGuestSize(named, size, l1Size)
    await writeImage(file, named, clusters)
    return
  }
  await writeImage(file, header, fixedClusters)
  await grow(context, file, data, options, crypto)
}

function refcountsPerBlock(header: Qcow2Header): number {
  return (header.clusterSize * 8) / 2 ** header.refcountOrder
}

/** The header of an image of size 0. */
function freshHeader(options: Qcow2CreateOptions): Qcow2Header {
  const zstd = options.compressionType === CompressionType.zstd
  return {
    version: options.version,
    backingFile: undefined,
    backingFileOffset: 0,
    backingFileBytes: undefined,
    clusterBits: Math.log2(options.clusterSize),
    clusterSize: options.clusterSize,
    size: 0,
    cryptMethod: 0,
    l1Size: 0,
    l1TableOffset: 0,
    l1VmStateIndex: 0,
    refcountTableOffset: options.clusterSize,
    refcountTableClusters: 1,
    snapshotCount: 0,
    snapshotsOffset: 0,
    incompatible:
      (zstd ? Incompatible.compression : 0) |
      (options.extendedL2 ? Incompatible.extendedL2 : 0) |
      (options.dataFile === undefined ? 0 : Incompatible.dataFile),
    compatible: options.lazyRefcounts ? Compatible.lazyRefcounts : 0,
    compatibleHigh: 0,
    autoclear: options.dataFileRaw ? Autoclear.dataFileRaw : 0,
    autoclearHigh: 0,
    refcountOrder: options.refcountOrder,
    headerLength: options.version === 2 ? headerLengthV2 : headerLengthV3,
    compressionType: options.compressionType,
    unknownFields: new Uint8Array(0),
    backingFormat: undefined,
    featureNames: [],
    dataFile: undefined,
    crypto: undefined,
    bitmaps: undefined,
    unknownExtensions: [],
    warnings: [],
  }
}

/** The header with the backing file in it, if there is to be one. Throws if it does not fit. */
function withBacking(header: Qcow2Header, options: Qcow2CreateOptions): Qcow2Header {
  const { backingFile, backingFormat } = options
  if (backingFile === undefined) {
    return header
  }
  const refused = (code: BlockError['code'], cause?: unknown) =>
    errnoError(
      code,
      `Could not assign backing file '${backingFile}' with format '${backingFormat ?? '(null)'}'`,
      { cause },
    )
  if (new TextEncoder().encode(backingFile).length > maxBackingFileBytes) {
    throw refused('EINVAL')
  }
  const named = { ...header, backingFile, backingFormat }
  try {
    serializeHeader(named)
  } catch (error) {
    throw refused(codeOf(error), error)
  }
  return named
}

/** Gives the header the guest size and an L1 table behind the fixed clusters. */
function setGuestSize(header: Qcow2Header, size: number, l1Size: number): void {
  header.size = size
  header.l1Size = l1Size
  header.l1VmStateIndex = l1Size
  header.l1TableOffset = l1Size === 0 ? 0 : fixedClusters * header.clusterSize
}

/** Sets the refcounts of the first `clusters` clusters to 1. */
function fillRefcounts(block: Uint8Array, clusters: number, order: number): void {
  const bits = 2 ** order
  for (let cluster = 0; cluster < clusters; cluster++) {
    if (bits < 8) {
      const at = Math.floor((cluster * bits) / 8)
      block[at] = (block[at] ?? 0) | (1 << ((cluster * bits) % 8))
    } else {
      block[((cluster + 1) * bits) / 8 - 1] = 1
    }
  }
}

/** Bytes of zeroes written at a time. */
const zeroChunkBytes = 1024 * 1024

/**
 * Writes the first `clusters` clusters, the header last: until it stands, the file is no image.
 * Zeroes are written out as QEMU does, so that both occupy the same space.
 */
async function writeImage(file: BlockNode, header: Qcow2Header, clusters: number): Promise<void> {
  const { clusterSize, refcountOrder } = header
  const tables = new Uint8Array(2 * clusterSize)
  new DataView(tables.buffer).setUint32(4, 2 * clusterSize)
  fillRefcounts(tables.subarray(clusterSize), clusters, refcountOrder)
  await write(file, clusterSize, tables, 'Could not write refcount table')
  const l1Bytes = header.l1Size * tableEntryBytes
  const zeroes = new Uint8Array(Math.min(l1Bytes, zeroChunkBytes))
  for (let done = 0; done < l1Bytes; done += zeroes.length) {
    const chunk = zeroes.subarray(0, l1Bytes - done)
    await write(
      file,
      header.l1TableOffset + done,
      chunk,
      'Could not resize image: Failed to grow the L1 table',
    )
  }
  await flush(file)
  await write(file, 0, serializeHeader(header), 'Could not write qcow2 header')
  await flush(file)
}

async function write(file: BlockNode, offset: number, data: Uint8Array, failure: string): Promise<void> {
  try {
    const wait = file.write(offset, data.length, data, 0, 0)
    if (wait !== undefined) {
      await wait
    }
  } catch (error) {
    throw errnoError(codeOf(error), failure, { cause: error })
  }
}

async function flush(file: BlockNode): Promise<void> {
  const wait = file.flush()
  if (wait !== undefined) {
    await wait
  }
}

/** Opens the empty image in `file` and lets the driver give it its size, then its backing file. */
async function grow(
  context: CreateContext,
  file: BlockNode,
  data: BlockNode | undefined,
  options: Qcow2CreateOptions,
  crypto: FreshCrypto | undefined,
): Promise<void> {
  const node = await context.layer.open(
    undefined,
    { driver: 'qcow2', file: file.name, ...(data === undefined ? {} : { 'data-file': data.name }) },
    { write: true },
  )
  try {
    if (data !== undefined && node.state instanceof Qcow2Image) {
      await node.state.nameDataFile(data.filename)
    }
    try {
      await truncateNode(node, options.size, {
        exact: false,
        preallocation: options.preallocation,
        zero: false,
      })
    } catch (error) {
      throw prefixed(error, 'Could not resize image: ')
    }
    if (options.backingFile !== undefined) {
      const wait = node.state?.changeBacking?.(options.backingFile, options.backingFormat)
      if (wait !== undefined) {
        await wait
      }
    }
    if (crypto !== undefined && node.state instanceof Qcow2Image) {
      await node.state.encrypt(crypto)
    }
    const wait = node.flush()
    if (wait !== undefined) {
      await wait
    }
  } finally {
    await context.layer.unref(node)
  }
}
