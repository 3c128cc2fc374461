import { blockError } from '../../../errors/index.js'

export const sectorBytes = 512
/** The same for disks of every kind, as is the room of the root folder: two clusters. */
export const sectorsPerCluster = 16
export const clusterBytes = sectorsPerCluster * sectorBytes
export const rootEntries = 512
/** Clusters are counted from the root folder on, which stands where clusters 0 and 1 would be. */
export const rootClusters = 2

/** Where everything stands. Counts and offsets are sectors. */
export interface Geometry {
  readonly fatType: 12 | 16 | 32
  readonly cylinders: number
  readonly heads: number
  readonly sectors: number
  /** Sectors of the disk, and of the partition on it. */
  readonly total: number
  readonly partition: number
  /** 0 for a floppy, which has no partition table. */
  readonly bootSector: number
  readonly fat: number
  readonly fatSectors: number
  readonly root: number
  /** Clusters behind the tables, those of the root folder included. */
  readonly clusters: number
}

/** The disk for a FAT type, 0 for the usual one. @throws BlockError EINVAL with QEMU's text */
export function chooseGeometry(wanted: number, floppy: boolean): Geometry {
  const fatType = wanted === 0 ? (floppy ? 12 : 16) : wanted
  if (fatType !== 12 && fatType !== 16 && fatType !== 32) {
    throw blockError('EINVAL', 'Valid FAT types are only 12, 16 and 32')
  }
  const cylinders = floppy ? 80 : fatType === 12 ? 64 : 1024
  const heads = floppy ? 2 : 16
  const sectors = floppy ? (wanted === 12 ? 18 : 36) : 63
  const bootSector = floppy ? 0 : 63
  const total = cylinders * heads * sectors
  const partition = total - bootSector
  const step = 1 + Math.floor((clusterBytes * 8) / fatType)
  const fatSectors = Math.floor((partition + step) / step)
  const fat = bootSector + 1
  const root = fat + 2 * fatSectors
  const clusters = Math.floor((partition - root) / sectorsPerCluster)
  return { fatType, cylinders, heads, sectors, total, partition, bootSector, fat, fatSectors, root, clusters }
}
