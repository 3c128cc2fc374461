import { readU32LE, writeU32LE, writeU64LE } from '../../../bytes/index.js'
import { errnoError, ioError } from '../../../errors/index.js'
import { readPadded } from '../../../formatkit/index.js'
import type { Codec, Host, ZlibDecoder } from '../../../host/index.js'
import type { SparseExtent } from './extent.js'
import { sectorBytes } from './sparse-header.js'

/** Sector and length in front of a grain's data. */
const markerBytes = 12

/** Adler-32 of RFC 1950. */
function adler32(bytes: Uint8Array): number {
  let a = 1
  let b = 0
  for (let at = 0; at < bytes.length; ) {
    // As many as cannot overflow before the modulo.
    const end = Math.min(at + 3800, bytes.length)
    for (; at < end; at++) {
      a += bytes[at] as number
      b += a
    }
    a %= 65521
    b %= 65521
  }
  return b * 65536 + a
}

/**
 * A marker with the compressed grain behind it, filled up to whole sectors.
 *
 * @param sector where the grain begins on the disk
 */
export async function packGrain(codec: Codec, sector: number, input: Uint8Array): Promise<Uint8Array> {
  const data = await codec.compress(input, input.length * 2 + sectorBytes)
  if (data === undefined) {
    throw ioError('EIO')
  }
  const stream = data.length + 6
  const packed = new Uint8Array(Math.ceil((markerBytes + stream) / sectorBytes) * sectorBytes)
  writeU64LE(packed, 0, sector)
  writeU32LE(packed, 8, stream)
  // zlib's header for deflate with a window of 4 KiB.
  packed.set([0x48, 0x0d], markerBytes)
  packed.set(data, markerBytes + 2)
  const sum = adler32(input)
  packed.set([sum / 2 ** 24, (sum >>> 16) & 255, (sum >>> 8) & 255, sum & 255], markerBytes + 2 + data.length)
  return packed
}

/** Grains of stream-optimized extents: zlib streams, with or without markers. */
export class GrainCodec {
  readonly #host: Host
  #deflate: Codec | undefined
  #zlib: ZlibDecoder | undefined

  constructor(host: Host) {
    this.#host = host
  }

  /** Decodes grain `grain` of `extent` into `output`, which has its length. @throws BlockError EIO */
  async read(extent: SparseExtent, grain: number, output: Uint8Array): Promise<void> {
    if (!extent.hasTable(grain)) {
      await extent.load(grain)
    }
    const offset = extent.entry(grain) * sectorBytes
    const most = extent.grainBytes * 2
    const head = new Uint8Array(sectorBytes)
    await readPadded(extent.file.node, offset, head)
    const skip = extent.hasMarkers ? markerBytes : 0
    const length = extent.hasMarkers ? readU32LE(head, 8) : Math.min(most, extent.file.node.length - offset)
    if (length <= 0 || length > most) {
      throw ioError('EIO')
    }
    const data = new Uint8Array(length)
    await readPadded(extent.file.node, offset + skip, data)
    this.#zlib ??= await this.#host.codecs.zlib?.()
    if (this.#zlib === undefined) {
      throw errnoError('ENOTSUP', 'zlib is not available')
    }
    if (output.length === extent.grainBytes) {
      await this.#zlib.decompressAsync(data, output)
      return
    }
    // The last grain: some writers fill it up, some do not.
    try {
      await this.#zlib.decompressAsync(data, output)
    } catch {
      const whole = new Uint8Array(extent.grainBytes)
      await this.#zlib.decompressAsync(data, whole)
      output.set(whole.subarray(0, output.length))
    }
  }

  /** A marker with the compressed data behind it, filled up to whole sectors. */
  async pack(sector: number, input: Uint8Array): Promise<Uint8Array> {
    this.#deflate ??= await this.#host.codecs.deflate()
    return await packGrain(this.#deflate, sector, input)
  }
}
