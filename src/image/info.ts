import { blockError, isBlockError } from '../errors/index.js'
import {
  allocatedSize,
  type BlockLayer,
  type BlockNode,
  backingFilenameOf,
  driverInfo,
  type FormatDetails,
  refreshFilename,
  type SnapshotInfo,
  type SpecificInfo,
} from '../graph/index.js'
import type { OptionTree } from '../options/index.js'
import { inQemuOrder } from './key-order.js'
import { type ImageSpec, imageLabel, openImage } from './open.js'

/** QAPI's `SnapshotInfo`. */
export interface ImageSnapshotInfo {
  readonly icount?: number
  readonly 'vm-clock-nsec': number
  readonly name: string
  readonly 'date-sec': number
  readonly 'date-nsec': number
  readonly 'vm-clock-sec': number
  readonly id: string
  /** Bytes. */
  readonly 'vm-state-size': number
}

/**
 * QAPI's `ImageInfo`, members in the order in which `qemu-img info --output=json` prints them.
 * Sizes are bytes. What QEMU leaves out is left out.
 */
export interface ImageInfo {
  readonly 'backing-filename-format'?: string
  readonly snapshots?: readonly ImageSnapshotInfo[]
  readonly 'virtual-size': number
  readonly filename: string
  readonly 'cluster-size'?: number
  readonly format: string
  readonly 'actual-size'?: number
  readonly 'format-specific'?: { readonly type: string; readonly data: OptionTree }
  /**
   * What QEMU does not show: identifiers, kinds, creators, as the format in `type` has them. With the option `details`
   * alone, and absent for formats of which QEMU shows all.
   */
  readonly 'format-details'?: FormatDetails
  readonly 'full-backing-filename'?: string
  readonly encrypted?: boolean
  readonly 'backing-filename'?: string
  readonly 'dirty-flag'?: boolean
}

/** Describes an open image. Needs no I/O permission; its backing file need not be open. */
export async function imageInfo(node: BlockNode): Promise<ImageInfo> {
  refreshFilename(node)
  const driver = driverInfo(node)
  const specific = await specificInfo(node)
  const snapshots = node.state?.snapshots?.() ?? []
  const backing: Partial<ImageInfo> =
    node.backingFile === ''
      ? {}
      : {
          'backing-filename': node.backingFile,
          ...present('full-backing-filename', fullBackingName(node)),
          ...present('backing-filename-format', node.backingFormat === '' ? undefined : node.backingFormat),
        }
  const clusterSize = driver?.clusterSize ?? 0
  return inQemuOrder<ImageInfo>({
    'virtual-size': node.length,
    filename: node.filename,
    format: node.driver?.name ?? '',
    ...present('actual-size', await sizeOnDisk(node)),
    ...present('cluster-size', clusterSize === 0 ? undefined : clusterSize),
    ...present('format-specific', specific),
    ...present('encrypted', isEncrypted(node, specific) ? true : undefined),
    ...present('snapshots', snapshots.length === 0 ? undefined : snapshots.map(snapshotInfo)),
    ...present('dirty-flag', driver === undefined ? undefined : (driver.isDirty ?? false)),
    ...backing,
  })
}

/** What the format says of the image besides, if anything. */
export function imageDetails(node: BlockNode): Pick<ImageInfo, 'format-details'> {
  const details = node.state?.details?.()
  return details === undefined ? {} : { 'format-details': details }
}

/** `{ [key]: value }`, or nothing for `undefined`. */
function present<K extends keyof ImageInfo>(key: K, value: ImageInfo[K] | undefined): Partial<ImageInfo> {
  return value === undefined ? {} : { [key]: value }
}

async function specificInfo(node: BlockNode): Promise<SpecificInfo | undefined> {
  return await node.state?.specificInfo?.()
}

function isEncrypted(node: BlockNode, specific: SpecificInfo | undefined): boolean {
  return (
    node.state?.key?.encrypted === true ||
    (specific !== undefined && (specific.type === 'luks' || specific.data.encrypt !== undefined))
  )
}

async function sizeOnDisk(node: BlockNode): Promise<number | undefined> {
  try {
    return await allocatedSize(node)
  } catch (error) {
    if (isBlockError(error)) {
      return undefined
    }
    throw error
  }
}

function fullBackingName(node: BlockNode): string | undefined {
  try {
    return backingFilenameOf(node)
  } catch (error) {
    if (isBlockError(error)) {
      return undefined
    }
    throw error
  }
}

/** A snapshot as QAPI describes it. */
export function snapshotInfo(snapshot: SnapshotInfo): ImageSnapshotInfo {
  const second = 1_000_000_000n
  return {
    ...(snapshot.icount === undefined ? {} : { icount: Number(snapshot.icount) }),
    'vm-clock-nsec': Number(snapshot.vmClockNanoseconds % second),
    name: snapshot.name,
    'date-sec': snapshot.dateSeconds,
    'date-nsec': snapshot.dateNanoseconds,
    'vm-clock-sec': Number(snapshot.vmClockNanoseconds / second),
    id: snapshot.id,
    'vm-state-size': snapshot.vmStateSize,
  }
}

export interface ImageInfoOptions {
  /** Follow the names of backing files down to the base. */
  readonly backingChain?: boolean | undefined
  /** Add `format-details`, where the format has them. */
  readonly details?: boolean | undefined
}

/**
 * Opens an image without its backing files and without I/O and describes it, and the images below
 * it if asked to: each is opened by the name its overlay records, as `qemu-img info` does. Names
 * found in images are subject to the layer's policy for implicit files.
 *
 * @throws BlockError `Could not open '%s': …`; `Backing file '%s' creates an infinite loop.`
 */
export async function collectImageInfo(
  layer: BlockLayer,
  image: ImageSpec | string,
  options: ImageInfoOptions = {},
): Promise<ImageInfo[]> {
  const result: ImageInfo[] = []
  const seen = new Set<string>()
  let next: ImageSpec | undefined = typeof image === 'string' ? { filename: image } : image
  while (next !== undefined) {
    const name = imageLabel(next)
    if (seen.has(name)) {
      throw blockError('ELOOP', `Backing file '${name}' creates an infinite loop.`)
    }
    seen.add(name)
    const { info, backing }: Described = await describe(layer, next, options)
    result.push(info)
    next = backing
  }
  return result
}

interface Described {
  readonly info: ImageInfo
  /** The image below, if it is to be described too. */
  readonly backing: ImageSpec | undefined
}

async function describe(
  layer: BlockLayer,
  image: ImageSpec,
  { backingChain: chain, details }: ImageInfoOptions,
): Promise<Described> {
  const backend = await openImage(layer, image, { noBacking: true, noIo: true })
  try {
    const plain = await imageInfo(backend.node)
    const info = details === true ? { ...plain, ...imageDetails(backend.node) } : plain
    const filename = info['full-backing-filename'] ?? info['backing-filename']
    if (chain !== true || filename === undefined) {
      return { info, backing: undefined }
    }
    await layer.implicitFiles({ parent: backend.node, key: 'backing', filename })
    const format = info['backing-filename-format']
    return { info, backing: { filename, format, forceShare: image.forceShare } }
  } finally {
    await backend.close()
  }
}
