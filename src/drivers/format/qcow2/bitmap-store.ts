import { blockError, codeOf, errnoError, ioError, prefixed, strerror } from '../../../errors/index.js'
import { type BitmapStore, type BlockNode, type DirtyBitmap, deviceOrNodeName } from '../../../graph/index.js'
import { checkConstraints, encodeName } from './bitmap-constraints.js'
import {
  type BitmapEntry,
  bitmapEntryBytes,
  readBitmapDirectory,
  serializeBitmapDirectory,
} from './bitmap-directory.js'

import { BitmapLoader } from './bitmap-load.js'

import { freeBitmaps, type NextDirectory, switchTo, writeDirectory } from './bitmap-switch.js'
import { type StoredBitmap, writeBitmap } from './bitmap-write.js'
import { maxBitmapDirectoryBytes, maxBitmaps } from './constants.js'
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
    this.#meta.overlap?.checkExcept(extension.directoryOffset, bytes.length, 'bitmap-directory')
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
      const bytes = names.reduce((sum, one) => sum + bitmapEntryBytes(encodeName(one).length), 0)
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
      let next: NextDirectory
      try {
        next = await writeDirectory(
          this.#meta,
          directory.filter((one) => one !== entry),
        )
      } catch (error) {
        throw extensionError(error)
      }
      const failure = await switchTo(this.#meta, next)
      if (failure !== undefined) {
        throw extensionError(failure.reason)
      }
      await freeBitmaps(this.#meta, [entry])
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
    const places = new Map(directory.map(({ name }, index) => [name, index]))
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
      const at = places.get(name) ?? -1
      const old = directory[at]
      if (old === undefined) {
        const nameBytes = encodeName(name)
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
    const { next, written } = await this.#writeAll(entries)
    const failure = await switchTo(this.#meta, next)
    if (failure === undefined) {
      await freeBitmaps(this.#meta, replaced)
      return
    }
    if (failure.undone) {
      await freeBitmaps(this.#meta, written)
    } else {
      this.#stopChanges()
    }
    throw extensionError(failure.reason)
  }

  /** Writes bitmaps and a directory of them, which nothing points to yet. */
  async #writeAll(
    entries: readonly (BitmapEntry | StoredBitmap)[],
  ): Promise<{ next: NextDirectory; written: BitmapEntry[] }> {
    const written: BitmapEntry[] = []
    const directory: BitmapEntry[] = []
    try {
      for (const entry of entries) {
        if (!('bitmap' in entry)) {
          directory.push(entry)
          continue
        }
        const stored = await writeBitmap(this.#meta, entry)
        written.push(stored)
        directory.push(stored)
      }
      try {
        return { next: await writeDirectory(this.#meta, directory), written }
      } catch (error) {
        throw extensionError(error)
      }
    } catch (error) {
      await freeBitmaps(this.#meta, written)
      throw error
    }
  }

  /** The bitmaps in the file may look valid already: nothing may be written any more. */
  #stopChanges(): void {
    for (const bitmap of this.#node.dirtyBitmaps) {
      if (bitmap.isStored && !bitmap.inconsistent) {
        bitmap.setReadonly(true)
      }
    }
  }

  /** The image is being closed or handed over: stores its bitmaps. What cannot be stored is lost, with a word to the user. */
  async storeAtEnd(): Promise<boolean> {
    try {
      await this.store()
      return true
    } catch (error) {
      const text = error instanceof Error ? error.message : strerror('EIO')
      this.#meta.host.warn(
        `error: Lost persistent bitmaps during inactivation of node '${deviceOrNodeName(this.#node)}': ${text}`,
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

function extensionError(reason: unknown) {
  return errnoError(codeOf(reason), 'Failed to update bitmap extension', { cause: reason })
}
