/**
 * Big- and little-endian integers in byte arrays. `at` is a byte index; reading or writing past the
 * end of the array is a programming error and throws RangeError, so parsers check lengths before.
 *
 * 64-bit values are numbers. One above 2^53-1 is read as `Infinity`: every upper bound refuses it,
 * whichever check comes first.
 */

function check(bytes: Uint8Array, at: number, length: number): void {
  if (!(at >= 0 && at + length <= bytes.length)) {
    throw new RangeError(`integer at ${at}, +${length} is outside ${bytes.length} bytes`)
  }
}

const upperUnit = 0x1_0000_0000
/** First upper half that makes a value unsafe. */
const upperLimit = 0x20_0000

function join64(upper: number, lower: number): number {
  return upper >= upperLimit ? Number.POSITIVE_INFINITY : upper * upperUnit + lower
}

function check64(value: number): void {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new RangeError(`${value} is not a safe unsigned integer`)
  }
}

export function readU16BE(bytes: Uint8Array, at: number): number {
  check(bytes, at, 2)
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number)
}

export function readU16LE(bytes: Uint8Array, at: number): number {
  check(bytes, at, 2)
  return ((bytes[at + 1] as number) << 8) | (bytes[at] as number)
}

export function readU32BE(bytes: Uint8Array, at: number): number {
  return readU16BE(bytes, at) * 0x1_0000 + readU16BE(bytes, at + 2)
}

export function readU32LE(bytes: Uint8Array, at: number): number {
  return readU16LE(bytes, at + 2) * 0x1_0000 + readU16LE(bytes, at)
}

/** Values above 2^53-1 come back as `Infinity`. */
export function readU64BE(bytes: Uint8Array, at: number): number {
  return join64(readU32BE(bytes, at), readU32BE(bytes, at + 4))
}

/** Values above 2^53-1 come back as `Infinity`. */
export function readU64LE(bytes: Uint8Array, at: number): number {
  return join64(readU32LE(bytes, at + 4), readU32LE(bytes, at))
}

export function writeU16BE(bytes: Uint8Array, at: number, value: number): void {
  check(bytes, at, 2)
  bytes[at] = value >>> 8
  bytes[at + 1] = value
}

export function writeU16LE(bytes: Uint8Array, at: number, value: number): void {
  check(bytes, at, 2)
  bytes[at] = value
  bytes[at + 1] = value >>> 8
}

export function writeU32BE(bytes: Uint8Array, at: number, value: number): void {
  writeU16BE(bytes, at, value >>> 16)
  writeU16BE(bytes, at + 2, value)
}

export function writeU32LE(bytes: Uint8Array, at: number, value: number): void {
  writeU16LE(bytes, at, value)
  writeU16LE(bytes, at + 2, value >>> 16)
}

/** `value` must be a safe integer from 0 on; anything else throws RangeError. */
export function writeU64BE(bytes: Uint8Array, at: number, value: number): void {
  check64(value)
  writeU32BE(bytes, at, Math.floor(value / upperUnit))
  writeU32BE(bytes, at + 4, value % upperUnit)
}

/** `value` must be a safe integer from 0 on; anything else throws RangeError. */
export function writeU64LE(bytes: Uint8Array, at: number, value: number): void {
  check64(value)
  writeU32LE(bytes, at, value % upperUnit)
  writeU32LE(bytes, at + 4, Math.floor(value / upperUnit))
}
