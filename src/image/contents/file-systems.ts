import { readU16BE, readU16LE, readU32LE } from '../../bytes/index.js'
import type { DiskReader } from './partitions.js'

/** A file system, or another kind of contents, by its superblock. */
export interface FileSystem {
  readonly type: string
  readonly label?: string
}

/** Bytes of the beginning that are read at once; some superblocks stand further back. */
const headBytes = 4096

function text(bytes: Uint8Array, at: number, length: number): string {
  return new TextDecoder()
    .decode(bytes.subarray(at, at + length))
    .replace(/\0.*$/s, '')
    .trim()
}

function has(bytes: Uint8Array, at: number, magic: string): boolean {
  for (let i = 0; i < magic.length; i++) {
    if (bytes[at + i] !== magic.charCodeAt(i)) {
      return false
    }
  }
  return true
}

function labelled(type: string, label: string): FileSystem {
  return label === '' || label === 'NO NAME' ? { type } : { type, label }
}

function ext(head: Uint8Array): FileSystem | undefined {
  if (readU16LE(head, 1024 + 56) !== 0xef53) {
    return undefined
  }
  const compatible = readU32LE(head, 1024 + 92)
  const incompatible = readU32LE(head, 1024 + 96)
  const readOnly = readU32LE(head, 1024 + 100)
  // What ext3 does not know: extents, 64 bit, flexible groups; huge files and the like.
  const type =
    (incompatible & 0x2c0) !== 0 || (readOnly & 0x78) !== 0
      ? 'ext4'
      : (compatible & 4) !== 0
        ? 'ext3'
        : 'ext2'
  return labelled(type, text(head, 1024 + 120, 16))
}

function fat(head: Uint8Array): FileSystem | undefined {
  const sectorBytes = readU16LE(head, 11)
  const isSound = [512, 1024, 2048, 4096].includes(sectorBytes) && readU16LE(head, 510) === 0xaa55
  if (!isSound || (head[13] ?? 0) === 0 || (head[16] ?? 0) === 0) {
    return undefined
  }
  if (has(head, 82, 'FAT32')) {
    return labelled('FAT32', text(head, 71, 11))
  }
  if (has(head, 54, 'FAT')) {
    return labelled(text(head, 54, 8), text(head, 43, 11))
  }
  return undefined
}

/** What the first blocks tell. */
function byHead(head: Uint8Array): FileSystem | undefined {
  if (has(head, 3, 'NTFS    ')) {
    return { type: 'NTFS' }
  }
  if (has(head, 3, 'EXFAT   ')) {
    return { type: 'exFAT' }
  }
  if (has(head, 3, '-FVE-FS-')) {
    return { type: 'BitLocker' }
  }
  if (has(head, 0, 'LUKS\xba\xbe')) {
    return { type: `LUKS${readU16BE(head, 6)}` }
  }
  if (has(head, 0, 'XFSB')) {
    return labelled('XFS', text(head, 108, 12))
  }
  if (has(head, 0, 'hsqs')) {
    return { type: 'squashfs' }
  }
  if (has(head, 32, 'NXSB')) {
    return { type: 'APFS' }
  }
  if (has(head, 536, 'LVM2 001') || has(head, 24, 'LVM2 001')) {
    return { type: 'LVM2' }
  }
  if (readU32LE(head, 1024) === 0xf2f52010) {
    return { type: 'f2fs' }
  }
  if (readU32LE(head, 1024) === 0xe0f5e1e2) {
    return { type: 'erofs' }
  }
  if (has(head, 1024, 'H+\0\x04')) {
    return { type: 'HFS+' }
  }
  if (has(head, 1024, 'HX\0\x05')) {
    return { type: 'HFSX' }
  }
  if (has(head, 4086, 'SWAPSPACE2')) {
    return labelled('swap', text(head, 1052, 16))
  }
  return ext(head) ?? fat(head)
}

/** The file system that starts at `start`, as far as its superblock tells; a few reads. */
export async function identifyFileSystem(read: DiskReader, start: number): Promise<FileSystem | undefined> {
  const found = byHead(await read(start, headBytes))
  if (found !== undefined) {
    return found
  }
  const iso = await read(start + 32768, 2048)
  if (has(iso, 1, 'CD001')) {
    return labelled('ISO 9660', text(iso, 40, 32))
  }
  const btrfs = await read(start + 65536, 1024)
  if (has(btrfs, 64, '_BHRfS_M')) {
    return labelled('btrfs', text(btrfs, 299, 256))
  }
  return undefined
}
