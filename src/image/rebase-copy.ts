import { blockError, codeOf, strerror } from '../errors/index.js'
import type { Backend, BlockNode } from '../graph/index.js'
import { BlockStatus, ChainStatus, chainStatus, ReqFlags } from '../io/index.js'
import { TimeSlice, type Wait } from '../sched/index.js'
import { type LongRun, throwIfAborted } from './long-run.js'
import { sectorBytes } from './sectors.js'

/** One of the two backing files. */
export interface RebaseSide {
  readonly user: Backend
  /** It is part of the image's present chain. */
  readonly inChain: boolean
}

export interface CopyOptions extends LongRun {
  readonly compress?: boolean | undefined
}

/** Bytes compared at a time. */
const chunkBytes = 2 * 1024 * 1024

/**
 * Writes into the image what it does not hold itself and what reads differently from the new backing
 * file. At every moment the image shows what it showed before, so that nothing is lost if this ends early.
 *
 * @throws BlockError with QEMU's texts
 */
export async function copyDifferences(
  image: Backend,
  top: BlockNode,
  old: RebaseSide | undefined,
  fresh: RebaseSide | undefined,
  options: CopyOptions,
): Promise<void> {
  const size = image.length
  const oldSide = new Contents(old, 'old')
  const newSide = new Contents(fresh, 'new')
  const granularity = options.compress === true ? Math.max(top.clusterSize, sectorBytes) : sectorBytes
  // Where nothing above the new backing file differs from it, nothing needs to be compared. Extents
  // of the images between need not be whole clusters of the top one, which compression wants.
  const prefix = fresh?.inChain === true && options.compress !== true ? fresh.user.node : undefined
  const slice = new TimeSlice()
  for (let offset = 0; offset < size; ) {
    throwIfAborted(options.signal)
    options.progress?.(offset, size)
    const pause = slice.breathe()
    if (pause !== undefined) {
      await pause
    }
    const found = await unallocated(top, prefix, offset, Math.min(chunkBytes, size - offset))
    if (!found.needed) {
      offset += found.bytes
      continue
    }
    let { bytes } = found
    if (offset < oldSide.length) {
      bytes = Math.min(bytes, oldSide.length - offset)
    }
    if (offset < newSide.length) {
      bytes = Math.min(bytes, newSide.length - offset)
    }
    if (granularity > sectorBytes) {
      bytes = Math.min(found.bytes, Math.ceil(bytes / granularity) * granularity)
    }
    await oldSide.read(offset, bytes)
    await newSide.read(offset, bytes)
    for (let done = 0; done < bytes; ) {
      const run = findRun(oldSide, newSide, done, bytes, granularity)
      if (run.different) {
        await writeRun(image, oldSide, offset + done, done, run.bytes, options.compress === true)
      }
      done += run.bytes
    }
    offset += bytes
  }
  options.progress?.(size, size)
}

interface Found {
  readonly needed: boolean
  readonly bytes: number
}

/** Whether the range from `offset` on has to be compared, and how far that is true. */
async function unallocated(
  top: BlockNode,
  prefix: BlockNode | undefined,
  offset: number,
  bytes: number,
): Promise<Found> {
  const fail = (error: unknown): never => {
    const code = codeOf(error)
    throw blockError(code, `error while reading image metadata: ${strerror(code)}`, { cause: error })
  }
  const own = new BlockStatus()
  try {
    await settled(top.status(offset, bytes, 'allocation', own))
  } catch (error) {
    fail(error)
  }
  if (own.allocated) {
    return { needed: false, bytes: own.bytes }
  }
  const below = top.backing
  if (prefix === undefined || below === undefined) {
    return { needed: true, bytes: own.bytes }
  }
  if (below === prefix) {
    return { needed: false, bytes: own.bytes }
  }
  const above = new ChainStatus()
  try {
    await chainStatus(below, prefix, offset, own.bytes, 'allocation', above)
  } catch (error) {
    fail(error)
  }
  // Past the end of the images between nothing of the old contents is theirs.
  return above.bytes === 0
    ? { needed: true, bytes: own.bytes }
    : { needed: above.allocated, bytes: above.bytes }
}

/** The contents of one of the backing files; what lies past its end, or all without one, is zero. */
class Contents {
  readonly length: number
  /** Whether what was read last is known to be zero throughout; the buffer holds something else then. */
  isZero = false
  readonly buffer = new Uint8Array(chunkBytes)
  readonly words = new Int32Array(this.buffer.buffer)
  readonly #user: Backend | undefined
  readonly #which: 'old' | 'new'

  constructor(side: RebaseSide | undefined, which: 'old' | 'new') {
    this.#user = side?.user
    this.#which = which
    this.length = side?.user.length ?? 0
  }

  async read(offset: number, bytes: number): Promise<void> {
    const inside = Math.max(0, Math.min(bytes, this.length - offset))
    try {
      this.isZero = inside === 0 || (await this.#showsZeroes(offset, inside))
      if (!this.isZero) {
        this.buffer.fill(0, inside, bytes)
        await settled(this.#user?.read(offset, inside, this.buffer))
      }
    } catch (error) {
      throw blockError(codeOf(error), `error while reading from ${this.#which} backing file`, {
        cause: error,
      })
    }
  }

  /** Whether the map of the backing file alone tells that the range is zero, so that it need not be read. */
  async #showsZeroes(offset: number, bytes: number): Promise<boolean> {
    const node = this.#user?.node
    if (node === undefined) {
      return true
    }
    const status = new ChainStatus()
    await chainStatus(node, undefined, offset, bytes, 'zero', status)
    return status.zero && status.bytes >= bytes
  }
}

/** The longest run from `start` on, in steps of `granularity` bytes, that is all different or all the same. */
function findRun(
  a: Contents,
  b: Contents,
  start: number,
  end: number,
  granularity: number,
): { different: boolean; bytes: number } {
  const different = differs(a, b, start, Math.min(end, start + granularity))
  let at = Math.min(end, start + granularity)
  while (at < end && differs(a, b, at, Math.min(end, at + granularity)) === different) {
    at = Math.min(end, at + granularity)
  }
  return { different, bytes: at - start }
}

function differs(a: Contents, b: Contents, start: number, end: number): boolean {
  if (a.isZero) {
    return !b.isZero && hasData(b.words, start, end)
  }
  if (b.isZero) {
    return hasData(a.words, start, end)
  }
  const x = a.words
  const y = b.words
  for (let i = start / 4; i < end / 4; i++) {
    if (x[i] !== y[i]) {
      return true
    }
  }
  return false
}

function hasData(words: Int32Array, start: number, end: number): boolean {
  for (let i = start / 4; i < end / 4; i++) {
    if (words[i] !== 0) {
      return true
    }
  }
  return false
}

async function writeRun(
  image: Backend,
  side: Contents,
  offset: number,
  at: number,
  bytes: number,
  compress: boolean,
): Promise<void> {
  try {
    if (offset >= side.length) {
      await settled(image.writeZeroes(offset, bytes))
    } else {
      if (side.isZero) {
        side.buffer.fill(0, at, at + bytes)
      }
      await settled(image.write(offset, bytes, side.buffer, at, compress ? ReqFlags.writeCompressed : 0))
    }
  } catch (error) {
    const code = codeOf(error)
    throw blockError(code, `Error while writing to COW image: ${strerror(code)}`, { cause: error })
  }
}

async function settled(wait: Wait): Promise<void> {
  if (wait !== undefined) {
    await wait
  }
}
