import { blockError } from '../../errors/index.js'
import { type IoNode, maxLength } from '../../io/index.js'
import { readPadded } from '../read-padded.js'

/** Archives of tape format: headers and contents in units of this size, bytes. */
export const tarUnit = 512

/** A file in an archive. Bytes. */
export interface TarMember {
  readonly name: string
  /** Where its contents stand in the archive. */
  readonly offset: number
  readonly bytes: number
}

const maxMembers = 10_000
/** Of names and attributes that do not fit into a header. */
const maxExtraBytes = 1 << 20

const at = { name: 0, size: 124, checksum: 148, type: 156, magic: 257, prefix: 345 } as const
const nameBytes = 100
const prefixBytes = 155

function malformed(file: IoNode, what: string): Error {
  return blockError('EINVAL', `'${file.nodeName}' is no archive that can be read: ${what}`)
}

/**
 * The plain files in an archive, in order; their contents are not read. Understood are the formats of
 * POSIX (ustar, pax) and GNU. Whatever else an archive holds is passed over.
 *
 * @throws BlockError EINVAL with what is wrong; the errno of a read
 */
export async function listTar(file: IoNode): Promise<TarMember[]> {
  const members: TarMember[] = []
  const header = new Uint8Array(tarUnit)
  let longName: string | undefined
  let longBytes: number | undefined
  for (let offset = 0, headers = 0; offset + tarUnit <= file.length; headers++) {
    await read(file, offset, header)
    if (header.every((byte) => byte === 0)) {
      break
    }
    if (headers >= maxMembers) {
      throw malformed(file, `more than ${maxMembers} members`)
    }
    if (!hasChecksum(header)) {
      throw malformed(file, `no header at ${offset}`)
    }
    const type = String.fromCharCode(header[at.type] as number)
    const bytes = type === 'x' || type === 'L' ? fieldOf(header) : (longBytes ?? fieldOf(header))
    const start = offset + tarUnit
    if (bytes === undefined || start + bytes > Math.min(file.length, maxLength)) {
      throw malformed(file, `the member at ${offset} reaches beyond its end`)
    }
    if (type === 'x' || type === 'L') {
      const extra = await readText(file, start, bytes)
      if (type === 'L') {
        longName = extra.split('\0', 1)[0]
      } else {
        const records = paxRecords(extra)
        longName = records.get('path') ?? longName
        const size = records.get('size')
        longBytes = size === undefined ? longBytes : decimal(size)
        if (size !== undefined && longBytes === undefined) {
          throw malformed(file, `the size of the member at ${offset}`)
        }
      }
    } else {
      if (type === '0' || type === '\0' || type === '7') {
        members.push({ name: longName ?? nameOf(header), offset: start, bytes })
      }
      longName = undefined
      longBytes = undefined
    }
    offset = start + Math.ceil(bytes / tarUnit) * tarUnit
  }
  return members
}

async function read(file: IoNode, offset: number, into: Uint8Array): Promise<void> {
  const wait = readPadded(file, offset, into)
  if (wait !== undefined) {
    await wait
  }
}

async function readText(file: IoNode, offset: number, bytes: number): Promise<string> {
  if (bytes > maxExtraBytes) {
    throw malformed(file, `${bytes} bytes of attributes at ${offset}`)
  }
  const data = new Uint8Array(bytes)
  await read(file, offset, data)
  return new TextDecoder().decode(data)
}

/** The sum of a header's bytes, its own field as spaces. */
function sumOf(header: Uint8Array): number {
  return header.reduce((sum, byte, i) => sum + (i >= at.checksum && i < at.checksum + 8 ? 32 : byte), 0)
}

function hasChecksum(header: Uint8Array): boolean {
  return octal(header, at.checksum, 8) === sumOf(header)
}

function text(header: Uint8Array, offset: number, length: number): string {
  const field = header.subarray(offset, offset + length)
  const end = field.indexOf(0)
  return new TextDecoder().decode(end < 0 ? field : field.subarray(0, end))
}

function octal(header: Uint8Array, offset: number, length: number): number | undefined {
  const digits = text(header, offset, length).trim()
  return /^[0-7]{1,12}$/.test(digits) ? Number.parseInt(digits, 8) : undefined
}

function decimal(digits: string): number | undefined {
  const value = Number(digits)
  return /^\d{1,16}$/.test(digits) && Number.isSafeInteger(value) ? value : undefined
}

/** The size field: octal digits, or with the highest bit set a binary number. */
function fieldOf(header: Uint8Array): number | undefined {
  if (((header[at.size] as number) & 0x80) === 0) {
    return octal(header, at.size, 12)
  }
  let value = (header[at.size] as number) & 0x7f
  for (const byte of header.subarray(at.size + 1, at.size + 12)) {
    value = value * 256 + byte
  }
  return Number.isSafeInteger(value) ? value : undefined
}

function nameOf(header: Uint8Array): string {
  const prefix = text(header, at.magic, 5) === 'ustar' ? text(header, at.prefix, prefixBytes) : ''
  const name = text(header, at.name, nameBytes)
  return prefix === '' ? name : `${prefix}/${name}`
}

/** `length key=value\n`, one after the other. */
function paxRecords(extra: string): Map<string, string> {
  const records = new Map<string, string>()
  for (const [, key = '', value = ''] of extra.matchAll(/\d+ ([^=\n]+)=([^\n]*)\n/g)) {
    records.set(key, value)
  }
  return records
}

/** The header of a member with a name of at most 100 bytes. */
export function tarHeader(name: string, bytes: number, modifiedSeconds: number): Uint8Array {
  const header = new Uint8Array(tarUnit)
  const put = (offset: number, value: string): void => {
    header.set(new TextEncoder().encode(value), offset)
  }
  const encoded = new TextEncoder().encode(name)
  if (encoded.length > nameBytes) {
    throw blockError('EINVAL', `Name '${name}' is longer than ${nameBytes} bytes`)
  }
  header.set(encoded, at.name)
  put(100, '0000644\0')
  put(108, '0000000\0')
  put(116, '0000000\0')
  if (bytes < 8 ** 11) {
    put(at.size, `${bytes.toString(8).padStart(11, '0')}\0`)
  } else {
    let rest = bytes
    for (let i = at.size + 11; i > at.size; i--) {
      header[i] = rest % 256
      rest = Math.floor(rest / 256)
    }
    header[at.size] = 0x80
  }
  put(136, `${Math.floor(modifiedSeconds).toString(8).padStart(11, '0')}\0`)
  put(at.type, '0')
  put(at.magic, 'ustar\0')
  put(263, '00')
  put(at.checksum, `${sumOf(header).toString(8).padStart(6, '0')}\0 `)
  return header
}
