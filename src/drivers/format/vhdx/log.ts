import { blockError } from '../../../errors/index.js'
import { type BlockChild, truncateNode } from '../../../graph/index.js'
import type { Headers } from './headers.js'
import { isZeroGuid, logSectorBytes, mebibyte } from './layout.js'
import { type LogEntry, makeEntry, writesPerEntry } from './log-entry.js'
import { activeSequence } from './log-search.js'
import type { ReplayedFile } from './overlay.js'

/** Largest log that is read into memory for a replay. Those of Windows have 1 MiB. */
const maxReplayBytes = 64 * mebibyte

/** What the log says is to be done; empty if there is nothing. @throws BlockError EINVAL for a broken log */
export async function readLog(headers: Headers, file: ReplayedFile): Promise<LogEntry[]> {
  const { logOffset, logLength, logVersion, logGuid } = headers.current
  const invalid = (): Error => blockError('EINVAL', 'Invalid argument')
  if (logOffset < mebibyte || logOffset % mebibyte !== 0 || logVersion !== 0) {
    throw invalid()
  }
  if (isZeroGuid(logGuid) || logLength === 0) {
    return []
  }
  if (
    logLength % mebibyte !== 0 ||
    logLength > maxReplayBytes ||
    !Number.isSafeInteger(logOffset + logLength)
  ) {
    throw invalid()
  }
  const entries = activeSequence(await file.read(logOffset, new Uint8Array(logLength)), logGuid)
  if (entries === undefined || entries.some((entry) => reachesTooFar(entry, file.length))) {
    throw invalid()
  }
  return entries
}

/** Largest file that a log may ask for: the largest disk and its metadata. Bytes. */
const maxFileBytes = 65 * 2 ** 40

function reachesTooFar({ lastFileOffset, writes }: LogEntry, fileBytes: number): boolean {
  const end = Math.max(fileBytes, lastFileOffset)
  return lastFileOffset > maxFileBytes || writes.some(({ offset, bytes }) => offset + bytes > end)
}

/** Carries out what the log says and empties it. Durable when done. */
export async function replay(
  file: BlockChild,
  headers: Headers,
  entries: readonly LogEntry[],
): Promise<void> {
  const { node } = file
  for (const entry of entries) {
    if (entry.flushedFileOffset > node.length) {
      throw blockError('EINVAL', 'Invalid argument')
    }
    for (const { offset, bytes, data } of entry.writes) {
      if (data !== undefined) {
        await node.write(offset, bytes, data, 0, 0)
      } else {
        await node.writeZeroes(offset, bytes, 0)
      }
    }
    const end = Math.ceil(entry.lastFileOffset / mebibyte) * mebibyte
    if (entry.lastFileOffset > node.length && Number.isSafeInteger(end)) {
      await truncateNode(node, end, { exact: false, preallocation: 'off', zero: false })
    }
  }
  await node.flush()
  // The contents are what they were: who knows the disk by them still does.
  await headers.update({ logGuid: new Uint8Array(16) })
}

/**
 * Writes metadata through the log: an entry is durable before its writes go to their places, and these
 * are durable before the entry after the next overwrites it. The header names the log once it has an entry.
 */
export class Log {
  readonly #file: BlockChild
  readonly #headers: Headers
  #guid: Uint8Array | undefined
  #sequence = 1
  /** Where the next entry goes, from the start of the log. */
  #head = 0

  constructor(file: BlockChild, headers: Headers) {
    this.#file = file
    this.#headers = headers
  }

  /** What the writes refer to need not be durable yet. @param writes 4096 bytes each */
  async write(writes: readonly { readonly offset: number; readonly data: Uint8Array }[]): Promise<void> {
    const { logLength } = this.#headers.current
    const room = Math.floor(logLength / logSectorBytes / 2) - 1
    const most = Math.min(writesPerEntry, room)
    for (let i = 0; i < writes.length; i += most) {
      await this.#writeEntry(writes.slice(i, i + most))
    }
  }

  async #writeEntry(
    writes: readonly { readonly offset: number; readonly data: Uint8Array }[],
  ): Promise<void> {
    const { node } = this.#file
    // Data, the file's length, and what earlier entries did.
    await node.flush()
    const fresh = this.#guid === undefined
    const logGuid = this.#guid ?? this.#headers.newGuid()
    const entry = makeEntry({
      logGuid,
      sequence: this.#sequence,
      tail: this.#head,
      fileBytes: node.length,
      writes,
    })
    await this.#append(entry)
    await node.flush()
    if (fresh) {
      await this.#headers.update({ logGuid })
      this.#guid = logGuid
    }
    this.#sequence++
    for (const { offset, data } of writes) {
      await node.write(offset, data.length, data, 0, 0)
    }
  }

  async #append(entry: Uint8Array): Promise<void> {
    const { logOffset, logLength } = this.#headers.current
    const straight = Math.min(entry.length, logLength - this.#head)
    const { node } = this.#file
    await node.write(logOffset + this.#head, straight, entry, 0, 0)
    if (straight < entry.length) {
      await node.write(logOffset, entry.length - straight, entry, straight, 0)
    }
    this.#head = (this.#head + entry.length) % logLength
  }

  /** Everything is in its place: nothing needs to be replayed. */
  async clear(): Promise<void> {
    if (this.#guid !== undefined) {
      await this.#file.node.flush()
      await this.#headers.update({ logGuid: new Uint8Array(16) })
      this.#guid = undefined
    }
  }
}
