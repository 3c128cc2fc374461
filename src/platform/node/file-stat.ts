import fs from 'node:fs'
import type { FileKind, FileStat } from '../../host/index.js'

export function kindOf(stat: fs.BigIntStats): FileKind {
  if (stat.isFile()) {
    return 'regular'
  }
  if (stat.isBlockDevice()) {
    return 'block'
  }
  if (stat.isCharacterDevice()) {
    return 'char'
  }
  if (stat.isDirectory()) {
    return 'directory'
  }
  return stat.isFIFO() ? 'fifo' : stat.isSocket() ? 'socket' : 'other'
}

/** Inode numbers may exceed 2^53, hence the bigint form of stat. */
export function identityOf(stat: fs.BigIntStats): string {
  return `${stat.dev}:${stat.ino}`
}

/** What the host interface tells of a file; `size` in bytes for those whose stat does not know it. */
export function describe(stat: fs.BigIntStats, size = Number(stat.size)): FileStat {
  return {
    kind: kindOf(stat),
    size,
    allocated: Number(stat.blocks) * 512,
    blockSize: Number(stat.blksize),
    identity: identityOf(stat),
  }
}

/** Where Linux describes a block device. */
export function deviceFolder(stat: fs.BigIntStats): string {
  // The numbering of makedev(3).
  const major = ((stat.rdev >> 8n) & 0xfffn) | ((stat.rdev >> 32n) & 0xfffff000n)
  const minor = (stat.rdev & 0xffn) | ((stat.rdev >> 12n) & 0xffffff00n)
  return `/sys/dev/block/${major}:${minor}`
}

/** Size of a block device in bytes, as Linux publishes it without opening the device; undefined elsewhere. */
export function publishedDeviceSize(stat: fs.BigIntStats): number | undefined {
  try {
    const sectors = Number(fs.readFileSync(`${deviceFolder(stat)}/size`, 'latin1'))
    return Number.isSafeInteger(sectors) ? sectors * 512 : undefined
  } catch {
    return undefined
  }
}
