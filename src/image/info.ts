import type { BlockLayer, BlockNode } from '../graph/index.js'
import type { OptionTree } from '../options/index.js'
import type { ImageSpec } from './open.js'

/** An internal snapshot as `info` prints it. */
export interface ImageSnapshotInfo {
  'vm-clock-nsec': number
  name: string
  'date-sec': number
  'date-nsec': number
  'vm-clock-sec': number
  id: string
  'vm-state-size': number
  icount?: number
}

/**
 * QAPI's `ImageInfo` with the keys in the order `qemu-img info --output=json` prints them.
 * Sizes are bytes. Absent keys are absent in QEMU's output too.
 */
export interface ImageInfo {
  'backing-filename-format'?: string
  snapshots?: ImageSnapshotInfo[]
  'virtual-size': number
  filename: string
  'cluster-size'?: number
  format: string
  'actual-size'?: number
  'format-specific'?: { type: string; data: OptionTree }
  'full-backing-filename'?: string
  'backing-filename'?: string
  encrypted?: boolean
  compressed?: boolean
  'dirty-flag': boolean
}

/** Describes one open image. Needs no I/O permission; the backing file need not be open. */
export async function imageInfo(node: BlockNode): Promise<ImageInfo> {
  throw new Error(`unfinished ${String(node)}`)
}

export interface ImageInfoOptions {
  /** Follow the names of backing files down to the base. */
  readonly backingChain?: boolean | undefined
}

/**
 * Opens an image without its backing files and without I/O and describes it, and the images below
 * it if asked to: each is opened by the name its overlay records, as `qemu-img info` does.
 *
 * @throws BlockError `Could not open '%s': …`; `Backing file '%s' creates an infinite loop.`
 */
export async function collectImageInfo(
  layer: BlockLayer,
  image: ImageSpec | string,
  options: ImageInfoOptions = {},
): Promise<ImageInfo[]> {
  throw new Error(`unfinished ${String(layer)} ${String(image)} ${String(options)}`)
}
