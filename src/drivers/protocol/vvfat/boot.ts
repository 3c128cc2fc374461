import { writeU16LE, writeU32LE } from '../../../bytes/index.js'
import { type Geometry, rootEntries, sectorBytes, sectorsPerCluster } from './geometry.js'

function putText(into: Uint8Array, at: number, text: string): void {
  into.set(new TextEncoder().encode(text), at)
}

/** Cylinder, head and sector in the three bytes of a partition entry. */
function putChs(into: Uint8Array, at: number, sector: number, { heads, sectors }: Geometry): void {
  const track = Math.floor(sector / sectors)
  const cylinder = Math.floor(track / heads)
  into[at] = track % heads
  into[at + 1] = ((sector % sectors) + 1) | ((cylinder >> 8) << 6)
  into[at + 2] = cylinder
}

/** The first sector of a hard disk: one bootable partition. */
export function masterBootRecord(geometry: Geometry): Uint8Array {
  const { fatType, bootSector, total, partition } = geometry
  const sector = new Uint8Array(sectorBytes)
  writeU32LE(sector, 0x1b8, 0xbe1afdfa)
  sector[0x1be] = 0x80
  putChs(sector, 0x1bf, bootSector, geometry)
  sector[0x1c2] = fatType === 12 ? 0x01 : fatType === 16 ? 0x06 : 0x0b
  putChs(sector, 0x1c3, total - 1, geometry)
  writeU32LE(sector, 0x1c6, bootSector)
  writeU32LE(sector, 0x1ca, partition)
  writeU16LE(sector, 510, 0xaa55)
  return sector
}

/** The first sector of the partition. FAT32 gets the fields of FAT16, as in QEMU. */
export function bootSector(geometry: Geometry, label: string): Uint8Array {
  const { fatType, heads, sectors, partition, fatSectors } = geometry
  const floppy = geometry.bootSector === 0
  const sector = new Uint8Array(sectorBytes)
  sector.set([0xeb, 0x3e, 0x90])
  putText(sector, 3, 'MSWIN4.1')
  writeU16LE(sector, 11, sectorBytes)
  sector[13] = sectorsPerCluster
  writeU16LE(sector, 14, 1)
  sector[16] = 2
  writeU16LE(sector, 17, rootEntries)
  writeU16LE(sector, 19, partition > 0xffff ? 0 : partition)
  sector[21] = mediaType(geometry)
  writeU16LE(sector, 22, fatSectors)
  writeU16LE(sector, 24, sectors)
  writeU16LE(sector, 26, heads)
  writeU32LE(sector, 28, geometry.bootSector)
  writeU32LE(sector, 32, partition > 0xffff ? partition : 0)
  sector[36] = floppy ? 0 : 0x80
  sector[38] = 0x29
  writeU32LE(sector, 39, 0xfabe1afd)
  putText(sector, 43, label.padEnd(11))
  putText(sector, 54, fatType === 12 ? 'FAT12   ' : 'FAT16   ')
  writeU16LE(sector, 510, 0xaa55)
  return sector
}

/** Byte that tells floppies from hard disks. */
export function mediaType({ bootSector }: Geometry): number {
  return bootSector === 0 ? 0xf0 : 0xf8
}
