import { alignUp, readU16LE, readU32LE, writeU16LE, writeU32LE, writeU64LE } from '../../../bytes/index.js'
import { blockError, ioError } from '../../../errors/index.js'
import { readPadded } from '../../../formatkit/index.js'
import type { BlockChild } from '../../../graph/index.js'
import { Guid, logSectorBytes, sameBytes, tableBytes } from './layout.js'
import type { Region } from './metadata.js'

const headBytes = 32
const entryBytes = 32

/**
 * A change of the metadata region, made on copies of its sectors. What {@link MetadataEdit.writes} returns
 * is one entry of the log, so that all of it happens or nothing.
 */
export class MetadataEdit {
  readonly #file: BlockChild
  readonly #region: Region
  /** By their place in the region. */
  readonly #sectors = new Map<number, Uint8Array>()

  private constructor(file: BlockChild, region: Region) {
    this.#file = file
    this.#region = region
  }

  /** Reads the table. @throws BlockError ENOTSUP if the region cannot be changed through the log */
  static async begin(file: BlockChild, region: Region): Promise<MetadataEdit> {
    if (region.offset % logSectorBytes !== 0 || region.length < tableBytes) {
      throw ioError('ENOTSUP')
    }
    return new MetadataEdit(file, region)
  }

  async #sector(at: number): Promise<Uint8Array> {
    let bytes = this.#sectors.get(at)
    if (bytes === undefined) {
      bytes = new Uint8Array(logSectorBytes)
      await readPadded(this.#file.node, this.#region.offset + at, bytes)
      this.#sectors.set(at, bytes)
    }
    return bytes
  }

  async #read(offset: number, bytes: number): Promise<Uint8Array> {
    const out = new Uint8Array(bytes)
    for (let at = offset; at < offset + bytes; ) {
      const base = at - (at % logSectorBytes)
      const sector = await this.#sector(base)
      const part = sector.subarray(at - base, Math.min(logSectorBytes, offset + bytes - base))
      out.set(part, at - offset)
      at += part.length
    }
    return out
  }

  readonly #changed = new Set<number>()

  async #write(offset: number, bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const at = offset + done
      const base = at - (at % logSectorBytes)
      const sector = await this.#sector(base)
      const part = bytes.subarray(done, done + logSectorBytes - (at - base))
      sector.set(part, at - base)
      this.#changed.add(base)
      done += part.length
    }
  }

  async #table(): Promise<{ count: number; entries: Uint8Array }> {
    const head = await this.#read(0, headBytes)
    const count = readU16LE(head, 10)
    if (headBytes + count * entryBytes > tableBytes) {
      throw ioError('EINVAL')
    }
    return { count, entries: await this.#read(headBytes, count * entryBytes) }
  }

  /** Overwrites `bytes` at `from` of an item that is there. */
  async patch(guid: Uint8Array, from: number, bytes: Uint8Array): Promise<void> {
    const { count, entries } = await this.#table()
    const index = indexOf(entries, count, guid)
    const offset = readU32LE(entries, index * entryBytes + 16)
    if (index < 0 || offset + from + bytes.length > this.#region.length) {
      throw ioError('EINVAL')
    }
    await this.#write(offset + from, bytes)
  }

  async item(guid: Uint8Array, bytes: number): Promise<Uint8Array> {
    const { count, entries } = await this.#table()
    const index = indexOf(entries, count, guid)
    const offset = readU32LE(entries, index * entryBytes + 16)
    if (index < 0 || offset + bytes > this.#region.length) {
      throw ioError('EINVAL')
    }
    return await this.#read(offset, bytes)
  }

  /** Gives an item another value, behind all other items. @throws BlockError ENOSPC if there is no room */
  async setItem(guid: Uint8Array, flags: number, bytes: Uint8Array): Promise<void> {
    const { count, entries } = await this.#table()
    let index = indexOf(entries, count, guid)
    let end = tableBytes
    for (let i = 0; i < count; i++) {
      if (i !== index) {
        const at = i * entryBytes
        end = Math.max(end, readU32LE(entries, at + 16) + readU32LE(entries, at + 20))
      }
    }
    const offset = alignUp(end, logSectorBytes)
    const isNew = index < 0
    index = isNew ? count : index
    if (
      offset + alignUp(bytes.length, logSectorBytes) > this.#region.length ||
      headBytes + (index + 1) * entryBytes > tableBytes
    ) {
      throw blockError('ENOSPC', 'No space left in the metadata region')
    }
    const entry = new Uint8Array(entryBytes)
    entry.set(guid)
    writeU32LE(entry, 16, offset)
    writeU32LE(entry, 20, bytes.length)
    writeU32LE(entry, 24, flags)
    await this.#write(headBytes + index * entryBytes, entry)
    if (isNew) {
      await this.#setCount(count + 1)
    }
    await this.#write(offset, bytes)
  }

  /** The item is not there any more. Nothing if it was not. */
  async removeItem(guid: Uint8Array): Promise<void> {
    const { count, entries } = await this.#table()
    const index = indexOf(entries, count, guid)
    if (index < 0) {
      return
    }
    const rest = new Uint8Array((count - index) * entryBytes)
    rest.set(entries.subarray((index + 1) * entryBytes))
    await this.#write(headBytes + index * entryBytes, rest)
    await this.#setCount(count - 1)
  }

  async #setCount(count: number): Promise<void> {
    const bytes = new Uint8Array(2)
    writeU16LE(bytes, 0, count)
    await this.#write(10, bytes)
  }

  /** What the log has to write. */
  writes(): { offset: number; data: Uint8Array }[] {
    return [...this.#changed].map((at) => ({
      offset: this.#region.offset + at,
      data: this.#sectors.get(at) ?? new Uint8Array(logSectorBytes),
    }))
  }
}

function indexOf(entries: Uint8Array, count: number, guid: Uint8Array): number {
  for (let i = 0; i < count; i++) {
    if (sameBytes(entries.subarray(i * entryBytes, i * entryBytes + 16), guid)) {
      return i
    }
  }
  return -1
}

/** The disk has a parent, or none. */
export async function setHasParent(edit: MetadataEdit, hasParent: boolean): Promise<void> {
  const [flags = 0] = await edit.item(Guid.fileParameters, 5).then((bytes) => bytes.subarray(4))
  await edit.patch(Guid.fileParameters, 4, Uint8Array.of(hasParent ? flags | 2 : flags & ~2))
}

/** @param length bytes */
export async function setDiskLength(edit: MetadataEdit, length: number): Promise<void> {
  const bytes = new Uint8Array(8)
  writeU64LE(bytes, 0, length)
  await edit.patch(Guid.virtualSize, 0, bytes)
}
