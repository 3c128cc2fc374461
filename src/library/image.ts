import type { BitmapArea } from '../bytes/index.js'
import { blockError } from '../errors/index.js'
import {
  type AddDirtyBitmap,
  addDirtyBitmap,
  type Backend,
  type BlockDirtyInfo,
  type BlockLayer,
  type BlockNode,
  type CheckFix,
  clearDirtyBitmap,
  createBlockLayer,
  findDirtyBitmap,
  type ImplicitFilePolicy,
  Perm,
  type Preallocation,
  removeDirtyBitmap,
  type SnapshotInfo,
} from '../graph/index.js'
import {
  type AmendImageOptions,
  amendImage,
  type CheckImageResult,
  checkImage,
  type ImageInfo,
  type ImageInfoOptions,
  type ImageSpec,
  imageDetails,
  imageInfo,
  type MapExtent,
  type MapOptions,
  mapImage,
  openImage as openBackend,
  resizeImage,
  type SnapshotOptions,
  type SnapshotWanted,
  showSnapshot,
  snapshotApply,
  snapshotImage,
  snapshotList,
  snapshotRemove,
  throwIfAborted,
} from '../image/index.js'
import { ReqFlags } from '../io/index.js'
import type { OptionTree } from '../options/index.js'
import type { Wait } from '../sched/index.js'
import { type RangeOptions, readableOf, writableOf } from './streams.js'

/** An image by name, or by options as `--blockdev` and `json:` names hold them. */
export type ImageName = string | OptionTree

export interface OpenImageOptions {
  /** Default true. */
  readonly readOnly?: boolean | undefined
  /** Format driver; probed when absent, which is dangerous for raw images that a guest has written to. */
  readonly format?: string | undefined
  /** Cache mode word: `writeback` (default), `none`, `writethrough`, `directsync`, `unsafe`. */
  readonly cache?: string | undefined
  /** Further open options of the image, as in `json:` names. */
  readonly options?: OptionTree | undefined
  /** Pass discards on to the files below. Default true. */
  readonly unmap?: boolean | undefined
  /** Do not open the backing files: what is not allocated reads as zeroes. */
  readonly noBacking?: boolean | undefined
  /** Read an image that somebody else is writing to; what is read may be inconsistent. */
  readonly forceShare?: boolean | undefined
  /**
   * What to do with files that the image itself names. Default: the layer's policy. Give one for
   * images from strangers.
   */
  readonly implicitFiles?: ImplicitFilePolicy | undefined
  /** Stops the opening. */
  readonly signal?: AbortSignal | undefined
}

export interface WriteOptions {
  /** The data is on stable storage when the write is done. */
  readonly fua?: boolean | undefined
}

export interface WriteZeroesOptions extends WriteOptions {
  /** The range may be deallocated. */
  readonly unmap?: boolean | undefined
}

export interface ResizeOptions {
  /** Permits making the image smaller, which loses what lies past the new end. */
  readonly shrink?: boolean | undefined
  readonly preallocation?: Preallocation | undefined
}

export interface CheckOptions {
  /** What to repair; needs an image open for writing. */
  readonly fix?: CheckFix | undefined
  readonly signal?: AbortSignal | undefined
}

/**
 * An open image. Offsets and sizes are bytes; any offset and length within the image will do.
 *
 * Close it, or declare it with `await using`: what was written may otherwise be lost. All failures are
 * BlockErrors. Buffers handed in must stay untouched until the returned promise settles.
 */
export class Image {
  readonly #backend: Backend
  readonly #readOnly: boolean

  /** @internal Use `openImage`. */
  constructor(backend: Backend, readOnly: boolean) {
    this.#backend = backend
    this.#readOnly = readOnly
  }

  /** @internal */
  get backend(): Backend {
    return this.#backend
  }

  /** Guest-visible bytes. */
  get size(): number {
    return this.#backend.length
  }

  /** Name of the format driver. */
  get format(): string {
    return this.node.driver?.name ?? ''
  }

  /** The name the image can be opened by again: a file name or `json:{…}`. */
  get filename(): string {
    return this.node.filename
  }

  get readOnly(): boolean {
    return this.#readOnly
  }

  /** The node of the block graph, for what this class does not offer. */
  get node(): BlockNode {
    return this.#backend.node
  }

  /** Reads `bytes` at `offset` into a new buffer, or as much as `into` holds into that; returns the buffer. */
  async read(offset: number, bytes: number): Promise<Uint8Array>
  async read(offset: number, into: Uint8Array): Promise<Uint8Array>
  async read(offset: number, target: number | Uint8Array): Promise<Uint8Array> {
    const bytes = typeof target === 'number' ? target : target.length
    this.#check(offset, bytes)
    const buffer = typeof target === 'number' ? new Uint8Array(bytes) : target
    await settled(this.#backend.read(offset, bytes, buffer))
    return buffer
  }

  /** Writes `data` at `offset`. It is durable after the next {@link flush}. */
  async write(offset: number, data: Uint8Array, options: WriteOptions = {}): Promise<void> {
    this.#check(offset, data.length)
    await settled(this.#backend.write(offset, data.length, data, 0, flagsOf(options)))
  }

  /** Makes the range read as zeroes, without writing data where the format can. */
  async writeZeroes(offset: number, bytes: number, options: WriteZeroesOptions = {}): Promise<void> {
    this.#check(offset, bytes)
    const unmap = options.unmap === true ? ReqFlags.mayUnmap : 0
    await settled(this.#backend.writeZeroes(offset, bytes, flagsOf(options) | unmap))
  }

  /** Tells that the contents of the range are no longer needed. What it reads as afterwards is not defined. */
  async discard(offset: number, bytes: number): Promise<void> {
    this.#check(offset, bytes)
    await settled(this.#backend.discard(offset, bytes))
  }

  /** Everything written before is on stable storage afterwards. */
  async flush(): Promise<void> {
    await settled(this.#backend.flush())
  }

  /** Changes the size in bytes; a part that is added reads as zeroes. */
  async resize(size: number, options: ResizeOptions = {}): Promise<void> {
    const { perm, shared } = this.#backend
    await this.#backend.setPermissions(perm | Perm.resize, shared)
    try {
      await resizeImage(this.#backend, { size, ...options })
    } finally {
      await this.#backend.setPermissions(perm, shared)
    }
  }

  /** The dirty bitmaps of the image, the newest first. */
  bitmaps(): BlockDirtyInfo[] {
    return this.node.dirtyBitmaps.query()
  }

  /**
   * Records from now on which parts of the image are written. A persistent bitmap is kept in the image
   * when it is closed.
   *
   * @throws BlockError `Bitmap already exists: %s`, or why the image cannot hold it
   */
  async addBitmap(options: AddDirtyBitmap): Promise<void> {
    await addDirtyBitmap(this.node, options)
  }

  /** Removes a bitmap, also from the image. @throws BlockError `Dirty bitmap '%s' not found` */
  async removeBitmap(name: string): Promise<void> {
    await removeDirtyBitmap(findDirtyBitmap(this.node, name))
  }

  /** Forgets what a bitmap has recorded. @throws BlockError `Dirty bitmap '%s' not found` */
  clearBitmap(name: string): void {
    clearDirtyBitmap(findDirtyBitmap(this.node, name))
  }

  /**
   * The parts that a bitmap has recorded as written, in order; bytes, in whole bits of the bitmap.
   *
   * @throws BlockError `Dirty bitmap '%s' not found`, `Bitmap '%s' is inconsistent and cannot be used`
   */
  *dirtyAreas(name: string): Generator<BitmapArea, void, void> {
    const bitmap = findDirtyBitmap(this.node, name)
    bitmap.check({ busy: true, readonly: true })
    for (let area = bitmap.nextDirtyArea(0); area !== undefined; ) {
      yield area
      area = bitmap.nextDirtyArea(area.offset + area.bytes)
    }
  }

  /**
   * What `qemu-img info --output=json` prints of the image; with `details` also `format-details`: identifiers, kinds
   * and creators that QEMU does not show, the same that `blockgraph info --details` prints. Its `type` is the format, and
   * tells what `data` has. Sizes are bytes.
   */
  async info({ details = false }: Pick<ImageInfoOptions, 'details'> = {}): Promise<ImageInfo> {
    const info = await imageInfo(this.node)
    return details ? { ...info, ...imageDetails(this.node) } : info
  }

  /** The extents of the image in order: what is data, what is zero, and where it is stored. */
  map(options: MapOptions = {}): AsyncGenerator<MapExtent, void, void> {
    return mapImage(this.node, options)
  }

  /** Checks the image's metadata, and repairs it if asked to. */
  async check(options: CheckOptions = {}): Promise<CheckImageResult> {
    return await checkImage(this.#backend, options)
  }

  /** The internal snapshots of the image, oldest first. */
  snapshots(): readonly SnapshotInfo[] {
    return snapshotList(this.#backend)
  }

  /**
   * Records the present state as an internal snapshot.
   *
   * @throws BlockError `ENOTSUP` for formats without
   */
  async createSnapshot(options: SnapshotOptions): Promise<void> {
    await snapshotImage(this.#backend, options)
  }

  /**
   * Returns to a snapshot, given by id or name; the size may change with it.
   *
   * @throws BlockError `Failed to load snapshot: …`
   */
  async applySnapshot(idOrName: string): Promise<void> {
    await snapshotApply(this.#backend, idOrName)
  }

  /** Removes the first snapshot called `name`. Returns whether there was one. */
  async removeSnapshot(name: string): Promise<boolean> {
    return await snapshotRemove(this.#backend, name)
  }

  /**
   * Shows a snapshot of an image that is open read-only instead of its present state, until it is closed.
   *
   * @throws BlockError `Failed to load snapshot: …`
   */
  async showSnapshot(wanted: SnapshotWanted): Promise<void> {
    await showSnapshot(this.node, wanted)
  }

  /** Changes properties of the image in place, such as `{ compat: '0.10' }` of qcow2. */
  async amend(request: AmendImageOptions): Promise<void> {
    const { perm, shared } = this.#backend
    await this.#backend.setPermissions(perm | Perm.resize, shared)
    try {
      await amendImage(this.#backend, request)
    } finally {
      await this.#backend.setPermissions(perm, shared)
    }
  }

  /** A stream of the contents of `[start, end)`, by default all of it. */
  readable(options: RangeOptions = {}): ReadableStream<Uint8Array> {
    return readableOf(this, options)
  }

  /** A stream that writes from `start` on; writing past `end` fails with `ENOSPC`. Closing it flushes. */
  writable(options: RangeOptions = {}): WritableStream<Uint8Array> {
    return writableOf(this, options)
  }

  /** Writes back what is cached and closes the image. May be called again. */
  async close(): Promise<void> {
    await this.#backend.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #check(offset: number, bytes: number): void {
    const sane = Number.isSafeInteger(offset) && Number.isSafeInteger(bytes) && offset >= 0 && bytes >= 0
    if (!sane || offset + bytes > this.size) {
      throw blockError('EINVAL', `Range of ${bytes} bytes at ${offset} does not lie within the image`)
    }
  }
}

function flagsOf(options: WriteOptions): number {
  return options.fua === true ? ReqFlags.fua : 0
}

async function settled(wait: Wait): Promise<void> {
  if (wait !== undefined) {
    await wait
  }
}

/**
 * Opens an image. Close it when done.
 *
 * @throws BlockError `Could not open '%s': …`
 */
export async function openImage(
  layer: BlockLayer,
  name: ImageName,
  options: OpenImageOptions = {},
): Promise<Image> {
  throwIfAborted(options.signal)
  const readOnly = options.readOnly ?? true
  const tree = typeof name === 'string' ? options.options : { ...name, ...options.options }
  const spec: ImageSpec = {
    filename: typeof name === 'string' ? name : undefined,
    format: options.format,
    options: tree,
    label: typeof name === 'string' ? name : JSON.stringify(name),
    forceShare: options.forceShare,
  }
  const backend = await openBackend(layerFor(layer, options.implicitFiles), spec, {
    write: !readOnly,
    // Whoever writes through the library writes alone.
    noShare: !readOnly,
    unmap: options.unmap ?? true,
    noBacking: options.noBacking ?? false,
    cache: options.cache,
  })
  try {
    throwIfAborted(options.signal)
  } catch (error) {
    await backend.close()
    throw error
  }
  return new Image(backend, readOnly)
}

/** A policy of its own needs a layer of its own. */
function layerFor(layer: BlockLayer, implicitFiles: ImplicitFilePolicy | undefined): BlockLayer {
  if (implicitFiles === undefined) {
    return layer
  }
  const { host, drivers, whitelist } = layer
  return createBlockLayer({
    host,
    drivers: [...drivers].reverse(),
    implicitFiles,
    ...(whitelist === undefined ? {} : { whitelist }),
  })
}
