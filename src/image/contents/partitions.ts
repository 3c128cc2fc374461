import { readU16LE, readU32LE, readU64LE } from '../../bytes/index.js'

/** A partition as its table lists it. Offsets and sizes are bytes. */
export interface Partition {
  readonly number: number
  readonly start: number
  readonly size: number
  /** What it says it is for: a name where one is known, else the number or GUID. */
  readonly type: string
  readonly name?: string
  readonly bootable?: boolean
}

/** Reads `bytes` bytes of the disk at `offset`; what is past its end is zero. */
export type DiskReader = (offset: number, bytes: number) => Promise<Uint8Array>

const sectorBytes = 512
/** Entries looked at of a table, and of a chain of extended partitions. */
const maxEntries = 256
const maxLogical = 64

const mbrTypes: Readonly<Record<number, string>> = {
  1: 'FAT12',
  4: 'FAT16',
  5: 'extended',
  6: 'FAT16',
  7: 'NTFS or exFAT',
  11: 'FAT32',
  12: 'FAT32',
  14: 'FAT16',
  15: 'extended',
  130: 'Linux swap',
  131: 'Linux',
  133: 'extended',
  142: 'Linux LVM',
  165: 'FreeBSD',
  166: 'OpenBSD',
  168: 'macOS',
  175: 'macOS HFS+',
  238: 'GPT protective',
  239: 'EFI system',
  253: 'Linux RAID',
}

const guidTypes: Readonly<Record<string, string>> = {
  'C12A7328-F81F-11D2-BA4B-00A0C93EC93B': 'EFI system',
  '21686148-6449-6E6F-744E-656564454649': 'BIOS boot',
  'EBD0A0A2-B9E5-4433-87C0-68B6B72699C7': 'Microsoft basic data',
  'E3C9E316-0B5C-4DB8-817D-F92DF00215AE': 'Microsoft reserved',
  'DE94BBA4-06D1-4D40-A16A-BFD50179D6AC': 'Windows recovery',
  '0FC63DAF-8483-4772-8E79-3D69D8477DE4': 'Linux',
  '4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709': 'Linux root (x86-64)',
  '0657FD6D-A4AB-43C4-84E5-0933C84B4F4F': 'Linux swap',
  'E6D6D379-F507-44C2-A23C-238F2A3DF928': 'Linux LVM',
  'A19D880F-05FC-4D3B-A006-743F0F84911E': 'Linux RAID',
  'BC13C2FF-59E6-4262-A352-B275FD6F7172': 'Linux extended boot',
  '48465300-0000-11AA-AA11-00306543ECAC': 'macOS HFS+',
  '7C3457EF-0000-11AA-AA11-00306543ECAC': 'macOS APFS',
}

/** Whether a first sector holds a partition table rather than a file system alone. */
function isMbr(sector: Uint8Array): boolean {
  if (readU16LE(sector, 510) !== 0xaa55) {
    return false
  }
  let any = false
  for (let at = 446; at < 510; at += 16) {
    const flag = sector[at] as number
    if (flag !== 0 && flag !== 0x80) {
      return false
    }
    any ||= sector[at + 4] !== 0 && readU32LE(sector, at + 12) !== 0
  }
  return any
}

/** The partition table of a disk of `length` bytes; undefined if it has none. */
export async function readPartitions(
  read: DiskReader,
  length: number,
): Promise<{ table: 'gpt' | 'mbr'; partitions: Partition[] } | undefined> {
  const first = await read(0, sectorBytes)
  const gpt = (await readGpt(read, 512, length)) ?? (await readGpt(read, 4096, length))
  if (gpt !== undefined) {
    return { table: 'gpt', partitions: gpt }
  }
  return isMbr(first) ? { table: 'mbr', partitions: await readMbr(read, first) } : undefined
}

function mbrPartition(sector: Uint8Array, at: number, base: number, number: number): Partition | undefined {
  const type = sector[at + 4] as number
  const sectors = readU32LE(sector, at + 12)
  if (type === 0 || sectors === 0) {
    return undefined
  }
  return {
    number,
    start: (base + readU32LE(sector, at + 8)) * sectorBytes,
    size: sectors * sectorBytes,
    type: mbrTypes[type] ?? `0x${type.toString(16).padStart(2, '0')}`,
    ...(sector[at] === 0x80 ? { bootable: true } : {}),
  }
}

async function readMbr(read: DiskReader, first: Uint8Array): Promise<Partition[]> {
  const partitions: Partition[] = []
  for (let i = 0; i < 4; i++) {
    const partition = mbrPartition(first, 446 + i * 16, 0, i + 1)
    if (partition !== undefined) {
      partitions.push(partition)
    }
  }
  const extended = partitions.find(({ type }) => type === 'extended')
  if (extended !== undefined) {
    partitions.push(...(await readLogical(read, extended)))
  }
  return partitions
}

/** Logical partitions are a chain of tables, each with one of them and a link to the next table. */
async function readLogical(read: DiskReader, extended: Partition): Promise<Partition[]> {
  const partitions: Partition[] = []
  const base = extended.start / sectorBytes
  const seen = new Set<number>()
  for (let at = base; !seen.has(at) && partitions.length < maxLogical; ) {
    seen.add(at)
    const sector = await read(at * sectorBytes, sectorBytes)
    if (readU16LE(sector, 510) !== 0xaa55) {
      break
    }
    const partition = mbrPartition(sector, 446, at, 5 + partitions.length)
    if (partition !== undefined) {
      partitions.push(partition)
    }
    const link = readU32LE(sector, 462 + 8)
    if (link === 0) {
      break
    }
    at = base + link
  }
  return partitions
}

/** A GUID in the mixed order that GPT stores it in. */
function guid(bytes: Uint8Array, at: number): string {
  const hex = (from: number, to: number, reversed: boolean): string => {
    const part = [...bytes.subarray(at + from, at + to)]
    return (reversed ? part.reverse() : part).map((byte) => byte.toString(16).padStart(2, '0')).join('')
  }
  const parts = [hex(0, 4, true), hex(4, 6, true), hex(6, 8, true), hex(8, 10, false), hex(10, 16, false)]
  return parts.join('-').toUpperCase()
}

async function readGpt(
  read: DiskReader,
  blockBytes: number,
  length: number,
): Promise<Partition[] | undefined> {
  const header = await read(blockBytes, 92)
  if (new TextDecoder('latin1').decode(header.subarray(0, 8)) !== 'EFI PART') {
    return undefined
  }
  const entriesAt = readU64LE(header, 72) * blockBytes
  const count = Math.min(readU32LE(header, 80), maxEntries)
  const size = readU32LE(header, 84)
  if (size < 128 || size > 4096 || !(entriesAt < length)) {
    return undefined
  }
  const entries = await read(entriesAt, count * size)
  const partitions: Partition[] = []
  for (let i = 0; i < count; i++) {
    const at = i * size
    const type = guid(entries, at)
    const first = readU64LE(entries, at + 32)
    const last = readU64LE(entries, at + 40)
    if (/^[0-]*$/.test(type) || !(last >= first) || !Number.isSafeInteger((last + 1) * blockBytes)) {
      continue
    }
    const name = new TextDecoder('utf-16le').decode(entries.subarray(at + 56, at + 128)).replace(/\0.*$/s, '')
    partitions.push({
      number: i + 1,
      start: first * blockBytes,
      size: (last - first + 1) * blockBytes,
      type: guidTypes[type] ?? type,
      ...(name === '' ? {} : { name }),
    })
  }
  return partitions
}
