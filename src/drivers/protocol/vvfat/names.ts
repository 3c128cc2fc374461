import { readU16LE } from '../../../bytes/index.js'

const unitsPerEntry = 13

/** Checksum of a short name's eleven bytes, which ties a long name to it. */
export function nameChecksum(name: Uint8Array): number {
  let sum = 0
  for (let i = 0; i < 11; i++) {
    sum = (((sum & 1) << 7) + (sum >> 1) + (name[i] as number)) & 0xff
  }
  return sum
}

/**
 * The long name in the entries before a short one, last part first; `undefined` if they are not its own, as those
 * of a name that a system without long names has removed.
 */
export function longNameOf(parts: readonly Uint8Array[], short: Uint8Array): string | undefined {
  const sum = nameChecksum(short)
  const count = parts.length
  if (count === 0 || count > 20 || parts[0]?.[0] !== (count | 0x40)) {
    return undefined
  }
  const units: number[] = []
  for (let i = count - 1; i >= 0; i--) {
    const part = parts[i] as Uint8Array
    if (((part[0] as number) & 0x3f) !== count - i || part[13] !== sum) {
      return undefined
    }
    for (let unit = 0; unit < unitsPerEntry; unit++) {
      units.push(
        readU16LE(part, unit < 5 ? 1 + unit * 2 : unit < 11 ? 14 + (unit - 5) * 2 : 28 + (unit - 11) * 2),
      )
    }
  }
  const end = units.indexOf(0)
  return String.fromCharCode(...(end < 0 ? units : units.slice(0, end)))
}

/** A short name as it is shown; bytes that are not ASCII become U+001A, which no name may have. */
export function shortNameOf(entry: Uint8Array): string {
  const flags = entry[12] as number
  const text = (from: number, to: number, lower: boolean): string => {
    let part = ''
    for (let i = from; i < to; i++) {
      const byte = entry[i] as number
      part += byte < 0x20 || byte > 0x7e ? '\x1a' : String.fromCharCode(byte)
    }
    part = part.trimEnd()
    return lower ? part.toLowerCase() : part
  }
  const extension = text(8, 11, (flags & 0x10) !== 0)
  const name = text(0, 8, (flags & 0x08) !== 0)
  return extension === '' ? name : `${name}.${extension}`
}
