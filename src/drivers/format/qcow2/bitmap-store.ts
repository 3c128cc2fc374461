import { blockError, codeOf, errnoError, ioError, prefixed, strerror } from '../../../errors/index.js'
import { type BitmapStore, type BlockNode, type DirtyBitmap, deviceOrNodeName } from '../../../graph/index.js'
import {
  type BitmapEntry,
  bitmapEntryBytes,
  maxBitmapBytes,
  maxGranularityBits,
  maxNameBytes,
  maxTableEntries,
  minGranularityBits,
  readBitmapDirectory,
  serializeBitmapDirectory,
} from './bitmap-directory.js'
import { planBitmapsHeader } from './bitmap-header.js'
import { BitmapLoader } from './bitmap-load.js'
import { readBitmapClusters } from './bitmap-table.js'
import { type StoredBitmap, writeBitmap } from './bitmap-write.js'
import { maxBitmapDirectoryBytes, maxBitmaps, tableEntryBytes } from './constants.js'
import type { Qcow2Header } from './header.js'
import type { Qcow2Metadata } from './metadata.js'

/**
 * The dirty bitmaps of an image.
 *
 * While the image can be written its directory says of every bitmap that it is in use, which makes it
 * worth nothing to whoever opens the image after a crash. What is in memory goes into new clusters;
 * only when they are durable does the header point to a directory that says otherwise, and from then
 * on neither bitmaps nor data change any more. See docs/durability.md.
 */
export class PersistentBitmaps implements BitmapStore {
  readonly #meta: Qcow2Metadata
  readonly #node: BlockNode
  /** The bits of the stored bitmaps were not needed so far and have not been read. */
  #withoutBits = false

  constructor(meta: Qcow2Metadata, node: BlockNode) {
    this.#meta = meta
    this.#node = node
  }

  get supported(): boolean {
    return this.#meta.header.version >= 3
  }

  /**
   * Makes the stored bitmaps known to the node. On an image that can be written they are marked as in
   * use; otherwise they are readonly.
   *
   * @param contents whether their bits are needed
   * @throws BlockError EINVAL with QEMU's text
   */
  async load(write: boolean, contents: boolean): Promise<void> {
    const { header, file } = this.#meta
    if (header.bitmaps === undefined) {
      return
    }
    this.#withoutBits = !contents && !write
    const loaded = await new BitmapLoader(file, header).load(this.#node, !this.#withoutBits)
    if (!write) {
      for (const bitmap of loaded.values()) {
        bitmap?.setReadonly(true)
      }
      return
    }
    const entries = [...loaded.keys()]
    if (entries.some((entry) => !entry.inUse)) {
      try {
        await this.#markInUse(entries)
      } catch (error) {
        for (const bitmap of loaded.values()) {
          bitmap?.release()
        }
        throw errnoError(codeOf(error), "Can't update bitmap directory", { cause: error })
      }
    }
  }

  /**
   * Sets the flag in place. Whatever part of the directory a crash leaves written is true: nothing
   * changes the data before all of it is durable.
   */
  async #markInUse(entries: readonly BitmapEntry[]): Promise<void> {
    const { header } = this.#meta
    const extension = header.bitmaps
    if (extension === undefined) {
      throw ioError('EINVAL')
    }
    const bytes = serializeBitmapDirectory(
      entries.map((entry) => ({ ...entry, inUse: true })),
      header,
    )
    if (bytes.length !== extension.directorySize) {
      throw ioError('EINVAL')
    }
    await this.#meta.writeThrough(extension.directoryOffset, bytes)
  }

  async checkNew(name: string, granularity: number): Promise<void> {
    const { dirtyBitmaps } = this.#node
    if (dirtyBitmaps.find(name) !== undefined) {
      throw blockError('EEXIST', `Bitmap already exists: ${name}`)
    }
    try {
      if (!this.supported) {
        throw blockError('ENOTSUP', 'Cannot store dirty bitmaps in qcow2 v2 files')
      }
      checkConstraints(name, granularity, this.#node.length, this.#meta.header)
      const names = [name]
      for (const bitmap of dirtyBitmaps) {
        if (bitmap.isStored) {
          names.push(bitmap.name ?? '')
        }
      }
      if (names.length > maxBitmaps) {
        throw blockError('EINVAL', 'Maximum number of persistent bitmaps is already reached')
      }
      const bytes = names.reduce((sum, one) => sum + bitmapEntryBytes(encode(one).length), 0)
      if (bytes > maxBitmapDirectoryBytes) {
        throw blockError('EINVAL', 'Not enough space in the bitmap directory')
      }
    } catch (error) {
      throw prefixed(error, `Can't make bitmap '${name}' persistent in '${deviceOrNodeName(this.#node)}': `)
    }
  }

  /** Throws ENOTSUP, with QEMU's text, if a bitmap cannot follow a change of the image's size. */
  async checkResize(): Promise<void> {
    const { header, file } = this.#meta
    for (const { name } of await readBitmapDirectory(file, header)) {
      const bitmap = this.#node.dirtyBitmaps.find(name)
      if (bitmap === undefined) {
        throw blockError(
          'ENOTSUP',
          'Cannot resize qcow2 with persistent bitmaps that were not loaded into memory',
        )
      }
      bitmap.check()
    }
  }

  async remove(name: string): Promise<void> {
    const meta = this.#meta
    await meta.locked(async () => {
      const directory = await readBitmapDirectory(meta.file, meta.header)
      const entry = directory.find((one) => one.name === name)
      if (entry === undefined) {
        return
      }
      try {
        const point = await this.#writeDirectory(directory.filter((one) => one !== entry))
        await point()
      } catch (error) {
        throw errnoError(codeOf(error), 'Failed to update bitmap extension', { cause: error })
      }
      await this.#free([entry])
    })
  }

  /**
   * Stores what is persistent and may have changed. The bitmaps are valid in the image from then on,
   * so nothing may be written to it any more. Metadata lock held.
   *
   * @throws BlockError with QEMU's text; the image is as it was, its bitmaps in use
   */
  async store(): Promise<void> {
    const { header, file } = this.#meta
    const directory = await readBitmapDirectory(file, header)
    const entries: (BitmapEntry | StoredBitmap)[] = [...directory]
    const replaced: BitmapEntry[] = []
    let bytes = header.bitmaps?.directorySize ?? 0
    for (const bitmap of this.#node.dirtyBitmaps) {
      const { name } = bitmap
      if (name === undefined || !bitmap.isStored || bitmap.inconsistent || bitmap.readonly) {
        continue
      }
      try {
        checkConstraints(name, bitmap.granularity, bitmap.size, header)
      } catch (error) {
        throw prefixed(error, `Bitmap '${name}' doesn't satisfy the constraints: `)
      }
      const at = directory.findIndex((entry) => entry.name === name)
      const old = directory[at]
      if (old === undefined) {
        const nameBytes = encode(name)
        bytes += bitmapEntryBytes(nameBytes.length)
        if (entries.length === maxBitmaps) {
          throw blockError('EINVAL', 'Too many persistent bitmaps')
        }
        if (bytes > maxBitmapDirectoryBytes) {
          throw blockError('EINVAL', 'Bitmap directory is too large')
        }
        entries.push({ bitmap, name, nameBytes })
      } else {
        if (!old.inUse) {
          throw blockError('EINVAL', `Bitmap '${name}' already exists in the image`)
        }
        entries[at] = { bitmap, name, nameBytes: old.nameBytes }
        replaced.push(old)
      }
    }
    if (entries.every((entry) => !('bitmap' in entry))) {
      return
    }
    const point = await this.#writeAll(entries)
    try {
      await point()
    } catch (error) {
      await this.#takeBack()
      throw errnoError(codeOf(error), 'Failed to update bitmap extension', { cause: error })
    }
    await this.#free(replaced)
  }

  /** Writes bitmaps and directory; the result makes them valid. */
  async #writeAll(entries: readonly (BitmapEntry | StoredBitmap)[]): Promise<() => Promise<void>> {
    const written: BitmapEntry[] = []
    const next: BitmapEntry[] = []
    try {
      for (const entry of entries) {
        if (!('bitmap' in entry)) {
          next.push(entry)
          continue
        }
        const stored = await writeBitmap(this.#meta, entry)
        written.push(stored)
        next.push(stored)
      }
      try {
        return await this.#writeDirectory(next)
      } catch (error) {
        throw errnoError(codeOf(error), 'Failed to update bitmap extension', { cause: error })
      }
    } catch (error) {
      await this.#free(written)
      throw error
    }
  }

  /**
   * Writes a directory and makes it durable, with everything it refers to. The result has the header
   * point to it and frees the old one; if that fails, what was written stays allocated, because the
   * header in the file may point to it all the same.
   */
  async #writeDirectory(entries: readonly BitmapEntry[]): Promise<() => Promise<void>> {
    const meta = this.#meta
    const old = meta.header.bitmaps
    let point: () => Promise<void>
    if (entries.length === 0) {
      point = planBitmapsHeader(meta, undefined)
    } else {
      const bytes = serializeBitmapDirectory(entries, meta.header)
      const offset = await meta.allocator.allocate(meta.geometry.clusters(bytes.length))
      try {
        const wait = meta.file.write(offset, bytes.length, bytes, 0, 0)
        if (wait !== undefined) {
          await wait
        }
        await meta.flushL2()
        await meta.flushBlocks()
        point = planBitmapsHeader(meta, {
          count: entries.length,
          directorySize: bytes.length,
          directoryOffset: offset,
        })
      } catch (error) {
        await meta.allocator.free(offset, bytes.length, 'other', false)
        throw error
      }
    }
    return async () => {
      await point()
      if (old !== undefined) {
        await meta.allocator.free(old.directoryOffset, old.directorySize, 'other', false)
      }
    }
  }

  /**
   * The header could not be written, or so it seems. If it is in the file the bitmaps look valid, so
   * unless it can be undone nothing may change any more.
   */
  async #takeBack(): Promise<void> {
    try {
      await this.#meta.writeHeader()
    } catch {
      for (const bitmap of this.#node.dirtyBitmaps) {
        if (bitmap.isStored && !bitmap.inconsistent) {
          bitmap.setReadonly(true)
        }
      }
    }
  }

  /** Frees the clusters of bitmaps that nothing refers to. What cannot be read is leaked. */
  async #free(entries: readonly BitmapEntry[]): Promise<void> {
    const { file, header, allocator } = this.#meta
    for (const entry of entries) {
      let clusters: number[]
      try {
        clusters = await readBitmapClusters(file, header, entry)
      } catch {
        continue
      }
      for (const offset of clusters) {
        await allocator.free(offset, header.clusterSize, 'always', false)
      }
      await allocator.free(entry.tableOffset, entry.tableSize * tableEntryBytes, 'other', false)
    }
    await allocator.passDiscards()
  }

  /** The image is being closed or handed over: stores its bitmaps. What cannot be stored is lost, with a word to the user. */
  async storeAtEnd(): Promise<boolean> {
    try {
      await this.store()
      return true
    } catch (error) {
      const text = error instanceof Error ? error.message : strerror('EIO')
      this.#meta.host.warn(
        `Lost persistent bitmaps during inactivation of node '${deviceOrNodeName(this.#node)}': ${text}`,
      )
      return false
    }
  }

  /** Releases what {@link storeAtEnd} has stored, or could not: whoever opens the image next owns them. */
  release(): void {
    for (const bitmap of this.#node.dirtyBitmaps) {
      if (bitmap.isStored) {
        bitmap.release()
      }
    }
  }

  /** The image stops being writable but stays open: stores its bitmaps, which are readonly then. Lock held. */
  async makeReadonly(): Promise<void> {
    await this.store()
    for (const bitmap of this.#node.dirtyBitmaps) {
      if (bitmap.isStored) {
        bitmap.setReadonly(true)
      }
    }
  }

  /**
   * The image can be written again.
   *
   * @throws BlockError with QEMU's text; the bitmaps stay readonly, so nothing can be written
   */
  async makeWritable(): Promise<void> {
    const { header, file } = this.#meta
    if (header.bitmaps === undefined) {
      return
    }
    const image = this.#node.filename
    const entries = await readBitmapDirectory(file, header)
    const found = new Map<DirtyBitmap, BitmapEntry>()
    for (const entry of entries) {
      const { name, inUse } = entry
      const bitmap = this.#node.dirtyBitmaps.find(name)
      if (bitmap === undefined) {
        throw blockError('EINVAL', `Unexpected bitmap '${name}' in image '${image}'`)
      }
      if (!inUse && !bitmap.readonly) {
        throw blockError(
          'EINVAL',
          `Corruption: bitmap '${name}' is not marked IN_USE in the image '${image}' and not marked readonly in RAM`,
        )
      }
      if (!inUse && bitmap.inconsistent) {
        throw blockError(
          'EINVAL',
          `Corruption: bitmap '${name}' is inconsistent but is not marked IN_USE in the image '${image}'`,
        )
      }
      if (inUse && bitmap.readonly && !bitmap.inconsistent) {
        throw blockError(
          'EINVAL',
          `Corruption: bitmap '${name}' is marked IN_USE in the image '${image}' but it is readonly and consistent in RAM`,
        )
      }
      found.set(bitmap, entry)
    }
    if (this.#withoutBits) {
      const loader = new BitmapLoader(file, header)
      for (const [bitmap, entry] of found) {
        if (!entry.inUse) {
          await loader.readBits(entry, bitmap, true)
        }
      }
      this.#withoutBits = false
    }
    if (entries.some(({ inUse }) => !inUse)) {
      try {
        await this.#markInUse(entries)
      } catch (error) {
        throw errnoError(codeOf(error), 'Cannot update bitmap directory', { cause: error })
      }
    }
    for (const bitmap of found.keys()) {
      bitmap.setReadonly(false)
    }
  }
}

function encode(name: string): Uint8Array {
  return new TextEncoder().encode(name)
}

/** Throws EINVAL, with QEMU's text, if a bitmap like this cannot be stored in an image of `size` guest bytes. */
function checkConstraints(name: string, granularity: number, size: number, header: Qcow2Header): void {
  if (granularity > 2 ** maxGranularityBits) {
    throw blockError('EINVAL', `Granularity exceeds maximum (${2 ** maxGranularityBits} bytes)`)
  }
  if (granularity < 2 ** minGranularityBits) {
    throw blockError('EINVAL', `Granularity is under minimum (${2 ** minGranularityBits} bytes)`)
  }
  const bytes = Math.ceil(Math.ceil(size / granularity) / 8)
  if (bytes > maxBitmapBytes || bytes > maxTableEntries * header.clusterSize) {
    throw blockError('EINVAL', 'Too much space will be occupied by the bitmap. Use larger granularity')
  }
  if (encode(name).length > maxNameBytes) {
    throw blockError('EINVAL', `Name length exceeds maximum (${maxNameBytes} characters)`)
  }
}
