import { blockError, codeOf, errnoError, strerror } from '../errors/index.js'
import type { Preallocation, TruncateOptions } from '../graph/index.js'
import type { FileKind, HostFile } from '../host/index.js'
import { TimeSlice, type Wait } from '../sched/index.js'

/** Bytes written at once when preallocating. */
const chunkBytes = 1 << 20
/** Largest block size that alignment probing tries, bytes. */
const firstBlockBytes = 4096

/** Runs one step; its failure is reported as `message: <strerror>`. */
async function step(message: string, run: () => Wait): Promise<void> {
  try {
    const wait = run()
    if (wait !== undefined) {
      await wait
    }
  } catch (error) {
    throw errnoError(codeOf(error), message, { cause: error })
  }
}

/**
 * Sets the length of a regular file to exactly `length` bytes. A grown part reads as zeroes.
 * On failure the old length is restored.
 *
 * @throws BlockError with QEMU's text
 */
export async function resizeRegularFile(
  file: HostFile,
  length: number,
  preallocation: Preallocation,
  warn: (line: string) => void,
): Promise<void> {
  const current = file.size()
  if (current > length && preallocation !== 'off') {
    throw blockError('ENOTSUP', 'Cannot use preallocation for shrinking files')
  }
  switch (preallocation) {
    case 'off':
      await step('Could not resize file', () => file.truncate(length))
      if (current === 0 && length > 0) {
        await allocateFirstBlock(file, length)
      }
      return
    case 'falloc':
      await restoring(file, current, warn, () => preallocate(file, current, length))
      return
    case 'full':
      await restoring(file, current, warn, async () => {
        await step('Could not resize file', () => file.truncate(length))
        await writeZeroes(file, current, length)
        await step('Could not flush file to disk', () => file.sync())
      })
      return
    case 'metadata':
      throw blockError('ENOTSUP', `Unsupported preallocation mode: ${preallocation}`)
  }
}

async function restoring(
  file: HostFile,
  length: number,
  warn: (line: string) => void,
  run: () => Promise<void>,
): Promise<void> {
  try {
    await run()
  } catch (error) {
    try {
      const wait = file.truncate(length)
      if (wait !== undefined) {
        await wait
      }
    } catch (second) {
      warn(`Failed to restore old file length: ${strerror(codeOf(second))}`)
    }
    throw error
  }
}

async function preallocate(file: HostFile, current: number, length: number): Promise<void> {
  if (length === current) {
    return
  }
  let allocated: boolean
  try {
    allocated = await file.allocate(current, length - current)
  } catch (error) {
    throw errnoError(codeOf(error), 'Could not preallocate new data', { cause: error })
  }
  if (!allocated) {
    await writeZeroes(file, current, length)
  }
  if (current === 0) {
    await allocateFirstBlock(file, length)
  }
}

async function writeZeroes(file: HostFile, start: number, end: number): Promise<void> {
  const zeroes = new Uint8Array(Math.min(chunkBytes, end - start))
  const slice = new TimeSlice()
  for (let at = start; at < end; ) {
    const bytes = Math.min(zeroes.length, end - at)
    await step('Could not write zeros for preallocation', () => file.write(at, bytes, zeroes, 0))
    at += bytes
    const pause = slice.breathe()
    if (pause !== undefined) {
      await pause
    }
  }
}

/**
 * Gives a grown empty file a real first block: unallocated ones can accept any request with O_DIRECT,
 * so that the alignment could not be found out later. Nothing depends on its success.
 */
async function allocateFirstBlock(file: HostFile, length: number): Promise<void> {
  const block = new Uint8Array(length < firstBlockBytes ? 512 : firstBlockBytes)
  try {
    const wait = file.write(0, block.length, block, 0)
    if (wait !== undefined) {
      await wait
    }
  } catch (error) {
    codeOf(error)
  }
}

/**
 * Decides whether a file that is not a regular one may be said to have `length` bytes: devices keep
 * their size, and a smaller size is fine if it need not be exact.
 *
 * @throws BlockError with QEMU's text
 */
export function resizeDevice(kind: FileKind, current: number, length: number, how: TruncateOptions): void {
  if (how.preallocation !== 'off') {
    throw blockError(
      'ENOTSUP',
      `Preallocation mode '${how.preallocation}' unsupported for this non-regular file`,
    )
  }
  if (kind !== 'char' && kind !== 'block') {
    throw blockError('ENOTSUP', 'Resizing this file is not supported')
  }
  if (length !== current && how.exact) {
    throw blockError('ENOTSUP', 'Cannot resize device files')
  }
  if (length > current) {
    throw blockError('EINVAL', 'Cannot grow device files')
  }
}
