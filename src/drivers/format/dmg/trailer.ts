import { readU64BE } from '../../../bytes/index.js'
import { blockError, ioError } from '../../../errors/index.js'
import type { IoNode } from '../../../io/index.js'

/** The part of the trailer that is read, bytes. */
const trailerBytes = 0x1f4
const magic = [0x6b, 0x6f, 0x6c, 0x79]

/** What the `koly` trailer says. Offsets are bytes in the file. */
export interface DmgTrailer {
  readonly dataForkOffset: number
  readonly resourceForkOffset: number
  readonly resourceForkLength: number
  readonly plistOffset: number
  readonly plistLength: number
  /** Guest sectors; `Infinity` for a number that cannot be. */
  readonly sectors: number
}

/**
 * Where the trailer starts: in the last two sectors, since a file need not be whole sectors long.
 *
 * @throws BlockError with QEMU's text if there is none
 */
async function findTrailer(file: IoNode): Promise<number> {
  const { length } = file
  if (length < 512) {
    throw blockError('EINVAL', 'dmg file must be at least 512 bytes long')
  }
  const offset = Math.max(0, length - 1023)
  const bytes = new Uint8Array(Math.min(length, 515))
  await file.read(offset, bytes.length, bytes, 0, 0)
  for (let i = 0; i < bytes.length - 3; i++) {
    if (magic.every((byte, k) => bytes[i + k] === byte)) {
      return offset + i
    }
  }
  throw blockError('EINVAL', 'Could not locate UDIF trailer in dmg file')
}

/** Reads and checks the trailer. @throws BlockError */
export async function readTrailer(file: IoNode): Promise<DmgTrailer> {
  const at = await findTrailer(file)
  const bytes = new Uint8Array(trailerBytes)
  await file.read(at, bytes.length, bytes, 0, 0)
  const trailer: DmgTrailer = {
    dataForkOffset: readU64BE(bytes, 0x18),
    resourceForkOffset: readU64BE(bytes, 0x28),
    resourceForkLength: readU64BE(bytes, 0x30),
    plistOffset: readU64BE(bytes, 0xd8),
    plistLength: readU64BE(bytes, 0xe0),
    sectors: readU64BE(bytes, 0x1ec),
  }
  const { resourceForkOffset, resourceForkLength, plistOffset, plistLength } = trailer
  if (
    trailer.dataForkOffset > at ||
    resourceForkOffset >= at ||
    resourceForkLength > at - resourceForkOffset ||
    plistOffset >= at ||
    plistLength > at - plistOffset ||
    (bytes[0x1ec] as number) >= 128
  ) {
    throw ioError('EINVAL')
  }
  return trailer
}
