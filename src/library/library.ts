import type { BlockLayer, MeasureResult } from '../graph/index.js'
import {
  type ChangeBitmapOptions,
  type CheckImageOptions,
  type CheckImageResult,
  type CommitImageOptions,
  type CommitResult,
  type CompactImageOptions,
  type CompactResult,
  type CompareOptions,
  type CompareResult,
  type ConvertOptions,
  type ConvertResult,
  type CreateImageOptions,
  type CreateImageResult,
  type CreateOvaOptions,
  type CreateOvaResult,
  changeBitmap,
  checkImage,
  collectImageInfo,
  commitImage,
  compactImage,
  compareImages,
  convertImage,
  createImage,
  createOva,
  type DiskContents,
  type ImageInfo,
  type ImageInfoOptions,
  type ImageSpec,
  imageContents,
  type LongRun,
  listOva,
  type MapExtent,
  type MapOptions,
  mapImage,
  measureImage,
  type OvaContents,
  openImage as openBackend,
  type RebaseImageOptions,
  rebaseImage,
  type VerifiedFile,
  verifyOva,
} from '../image/index.js'
import type { OptionSchema, OptionsOf } from '../options/index.js'
import { type Image, type ImageName, type OpenImageOptions, openImage } from './image.js'

/** Create options by format name, for the types of `options`. */
export type FormatSchemas = Readonly<Record<string, OptionSchema>>

/** Create options of one format, named and typed by its schema; formats without one take any. */
export type FormatOptions<S extends FormatSchemas, F extends string> = F extends keyof S
  ? Readonly<OptionsOf<S[F]>>
  : CreateImageOptions['options']

/** What `createImage` takes. With a format known by type, `options` are typed too; text as for `-o` always works. */
export interface TypedCreateOptions<S extends FormatSchemas, F extends string>
  extends Omit<CreateImageOptions, 'format' | 'options'> {
  readonly format?: F | undefined
  readonly options?: FormatOptions<S, F> | string | undefined
}

export interface TypedConvertOptions<S extends FormatSchemas, F extends string>
  extends Omit<ConvertOptions, 'format' | 'options' | 'sources' | 'target'> {
  readonly format?: F | undefined
  readonly options?: FormatOptions<S, F> | string | undefined
}

export interface MeasureOptions<S extends FormatSchemas, F extends string> {
  readonly format?: F | undefined
  readonly options?: FormatOptions<S, F> | string | undefined
}

/** The public functions, bound to a block layer. */
export interface Library<S extends FormatSchemas> {
  /** Opens an image, read-only unless told otherwise. Close it when done. */
  openImage(name: ImageName, options?: OpenImageOptions): Promise<Image>
  /** Creates an image as `qemu-img create` does. */
  createImage<const F extends string = 'raw'>(options: TypedCreateOptions<S, F>): Promise<CreateImageResult>
  /** Converts one image, or several in a row, as `qemu-img convert` does. */
  convertImage<const F extends string = 'raw'>(
    source: string | ImageSpec | readonly (string | ImageSpec)[],
    target: string | ImageSpec,
    options?: TypedConvertOptions<S, F>,
  ): Promise<ConvertResult>
  /** Compares the contents of two images as `qemu-img compare` does. */
  compareImages(
    first: string | ImageSpec,
    second: string | ImageSpec,
    options?: CompareOptions,
  ): Promise<CompareResult>
  /** Writes an image into its backing file and empties it, as `qemu-img commit` does. */
  commitImage(image: string | ImageSpec, options?: CommitImageOptions): Promise<CommitResult>
  /** Gives an image another backing file, as `qemu-img rebase` does. */
  rebaseImage(image: string | ImageSpec, options: RebaseImageOptions): Promise<void>
  /** Checks an image as `qemu-img check` does, and repairs it if `fix` says so. */
  checkImage(image: string | ImageSpec, options?: CheckImageOptions): Promise<CheckImageResult>
  /** Rewrites a qcow2 image so that it occupies only what it needs. */
  compactImage(options: CompactImageOptions): Promise<CompactResult>
  /** Packs images as the disks of an OVA. */
  createOva(options: CreateOvaOptions): Promise<CreateOvaResult>
  /** What an OVA holds; `ova:FILE` opens a disk of it. */
  listOva(filename: string): Promise<OvaContents>
  /** Compares every file of an OVA with its manifest. */
  verifyOva(filename: string, options?: LongRun): Promise<VerifiedFile[]>
  /** Changes a persistent dirty bitmap of an image as `qemu-img bitmap` does. */
  changeBitmap(image: string | ImageSpec, options: ChangeBitmapOptions): Promise<void>
  /** Describes an image, and those below it if asked to, as `qemu-img info` does. */
  imageInfo(image: string | ImageSpec, options?: ImageInfoOptions): Promise<ImageInfo[]>
  /** The partition table of a disk and its file systems, by their superblocks. */
  imageContents(image: string | ImageSpec): Promise<DiskContents>
  /** The extents of an image in order, as `qemu-img map` does. The image is open as long as you iterate. */
  mapImage(image: string | ImageSpec, options?: MapOptions): AsyncGenerator<MapExtent, void, void>
  /** Bytes that a target would need for `source`: an image, or a number of guest bytes. */
  measureImage<const F extends string = 'raw'>(
    source: string | ImageSpec | number,
    options?: MeasureOptions<S, F>,
  ): Promise<MeasureResult>
}

/**
 * Binds the library to a layer, which is made when it is first needed. `schemas` is there for its type:
 * the create options that each format's driver declares.
 */
export function bindLibrary<S extends FormatSchemas>(layerOf: () => BlockLayer, _schemas: S): Library<S> {
  return {
    openImage: async (name, options) => await openImage(layerOf(), name, options),
    createImage: async (options) => await createImage(layerOf(), options as CreateImageOptions),
    convertImage: async (source, target, options = {}) => {
      const sources = Array.isArray(source) ? source : [source as string | ImageSpec]
      return await convertImage(layerOf(), { ...(options as Partial<ConvertOptions>), sources, target })
    },
    compareImages: async (first, second, options) => {
      const layer = layerOf()
      const a = await openBackend(layer, first)
      try {
        const b = await openBackend(layer, second)
        try {
          return await compareImages(a, b, options)
        } finally {
          await b.close()
        }
      } finally {
        await a.close()
      }
    },
    commitImage: async (image, options) => await commitImage(layerOf(), image, options),
    rebaseImage: async (image, options) => await rebaseImage(layerOf(), image, options),
    checkImage: async (image, options = {}) => {
      const backend = await openBackend(layerOf(), image, { check: true, write: options.fix !== undefined })
      try {
        return await checkImage(backend, options)
      } finally {
        await backend.close()
      }
    },
    compactImage: async (options) => await compactImage(layerOf(), options),
    createOva: async (options) => await createOva(layerOf(), options),
    listOva: async (filename) => await listOva(layerOf(), filename),
    verifyOva: async (filename, options) => await verifyOva(layerOf(), filename, options),
    changeBitmap: async (image, options) => await changeBitmap(layerOf(), image, options),
    imageInfo: async (image, options) => await collectImageInfo(layerOf(), image, options),
    imageContents: async (image) => await imageContents(layerOf(), image),
    mapImage: async function* (image, options) {
      const backend = await openBackend(layerOf(), image)
      try {
        yield* mapImage(backend.node, options)
      } finally {
        await backend.close()
      }
    },
    measureImage: async (source, options = {}) => {
      const layer = layerOf()
      const target = { format: options.format, options: options.options as CreateImageOptions['options'] }
      if (typeof source === 'number') {
        return await measureImage(layer, { ...target, size: source })
      }
      const backend = await openBackend(layer, source)
      try {
        return await measureImage(layer, { ...target, source: backend })
      } finally {
        await backend.close()
      }
    },
  }
}
