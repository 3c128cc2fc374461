import { guidText, readU16LE, readU32LE, writeU16LE, writeU32LE } from '../../../bytes/index.js'
import { decodeUtf16, encodeUtf16 } from '../../../formatkit/index.js'
import { sameBytes } from './layout.js'

/** The metadata item that says where the parent is and who: pairs of keys and values. */

const locatorType = Uint8Array.from([
  0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a, 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13,
])
const headBytes = 20
const entryBytes = 12

/** Bytes of the longest item that is read or written. */
export const maxLocatorBytes = 0x20000

export const LocatorKey = {
  linkage: 'parent_linkage',
  /** What the parent's identifier is about to become. */
  nextLinkage: 'parent_linkage2',
  relative: 'relative_path',
  volume: 'volume_path',
  absolute: 'absolute_win32_path',
} as const

/** The pairs; undefined if this is no locator or parts of it are outside the item. */
export function parseLocator(bytes: Uint8Array): Map<string, string> | undefined {
  const count = readU16LE(bytes, 18)
  if (!sameBytes(bytes.subarray(0, 16), locatorType) || headBytes + count * entryBytes > bytes.length) {
    return undefined
  }
  const pairs = new Map<string, string>()
  for (let i = 0; i < count; i++) {
    const at = headBytes + i * entryBytes
    const text = (offset: number, length: number): string | undefined =>
      offset + length > bytes.length ? undefined : decodeUtf16(bytes.subarray(offset, offset + length))
    const key = text(readU32LE(bytes, at), readU16LE(bytes, at + 8))
    const value = text(readU32LE(bytes, at + 4), readU16LE(bytes, at + 10))
    if (key === undefined || value === undefined) {
      return undefined
    }
    pairs.set(key, value)
  }
  return pairs
}

/** @param pairs values of at most 65535 bytes in UTF-16 */
export function makeLocator(pairs: ReadonlyMap<string, string>): Uint8Array {
  const parts = [...pairs].map(([key, value]) => [encodeUtf16(key), encodeUtf16(value)] as const)
  const text = parts.reduce((sum, [key, value]) => sum + key.length + value.length, 0)
  const bytes = new Uint8Array(headBytes + parts.length * entryBytes + text)
  bytes.set(locatorType)
  writeU16LE(bytes, 18, parts.length)
  let end = headBytes + parts.length * entryBytes
  parts.forEach(([key, value], index) => {
    const at = headBytes + index * entryBytes
    writeU32LE(bytes, at, end)
    bytes.set(key, end)
    end += key.length
    writeU32LE(bytes, at + 4, end)
    bytes.set(value, end)
    end += value.length
    writeU16LE(bytes, at + 8, key.length)
    writeU16LE(bytes, at + 10, value.length)
  })
  return bytes
}

/** `{xxxxxxxx-xxxx-…}` of an identifier as it stands in the file. */
export function bracedGuid(guid: Uint8Array): string {
  return `{${guidText(guid)}}`
}
