import { readU32LE, readU64LE, uuidText } from '../../../bytes/index.js'
import { blockError, codeOf, errnoError } from '../../../errors/index.js'
import { readPadded } from '../../../formatkit/index.js'
import type { DirtyBitmap, OpenContext } from '../../../graph/index.js'
import type { ImageTable } from './image-table.js'
import { sectorBytes } from './layout.js'

/** 64-bit magics, as hexadecimal digits. */
const extensionMagic = 'ab234cef23dcea87'
const bitmapMagic = '20385fae252cb34a'
const endMagic = '0'

const extensionHeaderBytes = 24
const featureHeaderBytes = 24
const bitmapHeaderBytes = 32

/** Bytes of a cluster with an extension, and of a bitmap, that we take into memory. */
const maxClusterBytes = 16 << 20
const maxBitmapBytes = 16 << 20

function magicAt(bytes: Uint8Array, offset: number): string {
  const high = readU32LE(bytes, offset + 4)
  const low = readU32LE(bytes, offset)
  return high === 0 ? low.toString(16) : high.toString(16) + low.toString(16).padStart(8, '0')
}

/**
 * Reads the format extension: dirty bitmaps, which come up on the node, for reading only, if `keep`.
 *
 * @returns the end of what belongs to the extension, bytes
 * @throws BlockError with QEMU's text; no bitmaps are left then
 */
export async function loadExtension(
  context: OpenContext,
  table: ImageTable,
  length: number,
  keep: boolean,
): Promise<number> {
  const { file } = context
  const { extOffset: offset, clusterSize } = table
  if (clusterSize > maxClusterBytes) {
    throw blockError(
      'ENOTSUP',
      `Format Extension clusters of more than ${maxClusterBytes} bytes are not supported`,
    )
  }
  const bytes = new Uint8Array(clusterSize)
  if (offset > Number.MAX_SAFE_INTEGER - clusterSize) {
    throw errnoError('EINVAL', 'Failed to read Format Extension cluster')
  }
  try {
    await readPadded(file.node, offset, bytes)
  } catch (error) {
    throw errnoError(codeOf(error), 'Failed to read Format Extension cluster', { cause: error })
  }
  const loader = new ExtensionLoader(context, clusterSize, length, offset + clusterSize)
  try {
    await loader.load(bytes)
  } catch (error) {
    loader.release()
    throw error
  }
  if (!keep) {
    loader.release()
  }
  return loader.end
}

class ExtensionLoader {
  readonly #context: OpenContext
  readonly #clusterSize: number
  readonly #length: number
  readonly #bitmaps: DirtyBitmap[] = []
  /** Bitmaps share no clusters: no more can be read than the file has. */
  #clustersLeft: number
  #bytesLeft = maxBitmapBytes
  end: number

  constructor(context: OpenContext, clusterSize: number, length: number, end: number) {
    this.#context = context
    this.#clusterSize = clusterSize
    this.#length = length
    this.#clustersLeft = Math.ceil(context.file.node.length / clusterSize)
    this.end = end
  }

  release(): void {
    for (const bitmap of this.#bitmaps) {
      bitmap.setReadonly(false)
      bitmap.release()
    }
  }

  async load(bytes: Uint8Array): Promise<void> {
    const magic = magicAt(bytes, 0)
    if (magic !== extensionMagic) {
      throw blockError(
        'EINVAL',
        `Wrong parallels Format Extension magic: 0x${magic}, expected: 0x${extensionMagic}`,
      )
    }
    const { ciphers } = this.#context.host
    const sum = ciphers?.digest('md5', bytes.subarray(extensionHeaderBytes))
    if (sum === undefined || sum.some((byte, index) => byte !== bytes[8 + index])) {
      throw blockError('EINVAL', 'Wrong checksum in Format Extension header. Format extension is corrupted.')
    }
    let at = extensionHeaderBytes
    for (;;) {
      const remaining = bytes.length - at
      if (remaining < featureHeaderBytes) {
        throw blockError(
          'EINVAL',
          `Can not read feature header, as remaining bytes (${remaining}) in Format Extension is less than ` +
            `Feature header size (${featureHeaderBytes})`,
        )
      }
      const feature = magicAt(bytes, at)
      const flags = magicAt(bytes, at + 8)
      const dataBytes = readU32LE(bytes, at + 16)
      at += featureHeaderBytes
      if (flags !== '0') {
        throw blockError('EINVAL', 'Flags for extension feature are unsupported')
      }
      const taken = Math.ceil(dataBytes / 8) * 8
      if (taken > bytes.length - at) {
        throw blockError('EINVAL', 'Feature data_size exceedes Format Extension cluster')
      }
      if (feature === endMagic) {
        return
      }
      if (feature !== bitmapMagic) {
        throw blockError('EINVAL', `Unknown feature: 0x${feature}`)
      }
      await this.#loadBitmap(bytes.subarray(at, at + dataBytes))
      at += taken
    }
  }

  async #loadBitmap(data: Uint8Array): Promise<void> {
    const { node } = this.#context
    if (data.length < bitmapHeaderBytes) {
      throw blockError(
        'EINVAL',
        `Too small Bitmap Feature area in Parallels Format Extension: ${data.length} bytes, ` +
          `expected at least ${bitmapHeaderBytes} bytes`,
      )
    }
    const sectors = readU64LE(data, 0)
    const granularity = readU32LE(data, 24) * sectorBytes
    const tableEntries = readU32LE(data, 28)
    if (sectors * sectorBytes !== this.#length) {
      throw blockError(
        'EINVAL',
        `Bitmap size (in sectors) ${sectors} differs from disk size in sectors ${this.#length / sectorBytes}`,
      )
    }
    if (tableEntries * 8 > data.length - bitmapHeaderBytes) {
      throw blockError('EINVAL', 'Bitmaps feature corrupted: l1 table exceeds extension data_size')
    }
    // QEMU fails an assertion here.
    if (granularity === 0 || granularity > 2 ** 31 || !Number.isInteger(Math.log2(granularity))) {
      throw blockError('EINVAL', `Invalid bitmap granularity ${granularity}`)
    }
    this.#bytesLeft -= Math.ceil(this.#length / granularity / 8)
    if (this.#bytesLeft < 0) {
      throw blockError('ENOTSUP', `Bitmaps of more than ${maxBitmapBytes} bytes are not supported`)
    }
    const name = uuidText(data.subarray(8, 24))
    const bitmap = node.dirtyBitmaps.create({ granularity, name, size: this.#length })
    this.#bitmaps.push(bitmap)
    const { bits } = bitmap
    const wanted = Math.ceil(bits.serializedLength(0, bits.size) / this.#clusterSize)
    if (wanted !== tableEntries) {
      throw blockError(
        'EINVAL',
        `Bitmap table size ${tableEntries} does not correspond to bitmap size and cluster size. Expected ${wanted}`,
      )
    }
    await this.#readBits(bitmap, data.subarray(bitmapHeaderBytes), tableEntries)
    bitmap.setReadonly(true)
  }

  async #readBits({ bits }: DirtyBitmap, table: Uint8Array, entries: number): Promise<void> {
    const { file } = this.#context
    const span = this.#clusterSize * 8 * bits.granularity
    const cluster = new Uint8Array(this.#clusterSize)
    for (let index = 0; index < entries; index++) {
      const entry = readU64LE(table, index * 8)
      const at = index * span
      const count = Math.min(span, bits.size - at)
      if (entry === 1) {
        bits.set(at, count)
      } else if (entry !== 0) {
        const place = entry * sectorBytes
        if (--this.#clustersLeft < 0 || place > Number.MAX_SAFE_INTEGER - this.#clusterSize) {
          throw errnoError('EINVAL', 'Failed to read bitmap data cluster')
        }
        try {
          await readPadded(file.node, place, cluster)
        } catch (error) {
          throw errnoError(codeOf(error), 'Failed to read bitmap data cluster', { cause: error })
        }
        bits.deserialize(at, count, cluster)
        this.end = Math.max(this.end, place + this.#clusterSize)
      }
    }
  }
}
