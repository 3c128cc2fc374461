import { blockError, ioError, isBlockError } from '../../../errors/index.js'
import type { FolderEntry, Host } from '../../../host/index.js'
import { bootSector, masterBootRecord, mediaType } from './boot.js'
import { entryBytes, FolderBuilder } from './folder.js'
import { clusterBytes, type Geometry, rootClusters, rootEntries, sectorBytes } from './geometry.js'

const maxFileBytes = 0x7fffffff

/** Something that takes clusters: `[begin, end)`. */
export interface Mapping {
  readonly begin: number
  readonly end: number
  /** The host file that stands there. */
  readonly path?: string
  /** The bytes that stand there. */
  readonly bytes?: Uint8Array
}

/** A folder as a disk. */
export interface VvfatDisk {
  readonly geometry: Geometry
  /** Everything before the root folder. */
  readonly head: Uint8Array
  /** In the order of their clusters, without gaps. */
  readonly mappings: readonly Mapping[]
}

interface Pending {
  readonly path: string
  readonly entry: FolderEntry
  readonly parent: FolderBuilder
  readonly index: number
  readonly parentCluster: number
}

/** Folders whose bytes are known once the clusters of what they hold are. */
interface OpenFolder {
  readonly builder: FolderBuilder
  readonly begin: number
  readonly clusters: number
}

/**
 * Lays out a folder and all below it, breadth first, as QEMU does.
 *
 * @throws BlockError EIO if it cannot be read or does not fit
 */
export function buildDisk(host: Host, dir: string, label: string, geometry: Geometry): VvfatDisk {
  const path = dir.replace(/(?<=.)\/$/, '')
  const root = new FolderBuilder()
  root.addLabel(label)
  const pending: Pending[] = []
  fill(host, path, root, 0, 0, pending)
  if (root.count > rootEntries) {
    host.warn('Too many entries in root directory')
    throw unreadable(path)
  }
  // With FAT32 it takes what it needs, so that clusters are not where others look for them: as in QEMU.
  const rootSize =
    geometry.fatType === 32 ? Math.ceil((root.count * entryBytes) / clusterBytes) : rootClusters
  const folders: OpenFolder[] = [{ builder: root, begin: 0, clusters: rootSize }]
  const mappings: Mapping[] = []
  let cluster = rootSize
  // Grows while it is walked.
  for (let i = 0; i < pending.length; i++) {
    const { entry, parent, index, parentCluster, path: at } = pending[i] as Pending
    parent.setCluster(index, cluster)
    const begin = cluster
    if (entry.kind === 'directory') {
      const builder = new FolderBuilder()
      fill(host, at, builder, begin, parentCluster, pending)
      const clusters = Math.ceil((builder.count * entryBytes) / clusterBytes)
      folders.push({ builder, begin, clusters })
      cluster += clusters
    } else {
      cluster += Math.ceil(entry.size / clusterBytes)
      mappings.push({ begin, end: cluster, path: at })
    }
    if (cluster > geometry.clusters) {
      const capacity = (geometry.partition / 2000).toFixed(2)
      host.warn(`Directory does not fit in FAT${geometry.fatType} (capacity ${capacity} MB)`)
      throw ioError('EINVAL')
    }
  }
  for (const { builder, begin, clusters } of folders) {
    mappings.push({ begin, end: begin + clusters, bytes: builder.finish(clusters * clusterBytes) })
  }
  mappings.sort((a, b) => a.begin - b.begin)
  return { geometry, head: head(geometry, label, mappings), mappings }
}

function unreadable(path: string): Error {
  return blockError('EIO', `Could not read directory ${path}`)
}

/** Puts the contents of a host folder into `builder`, and what takes clusters into `pending`. */
function fill(
  host: Host,
  path: string,
  builder: FolderBuilder,
  cluster: number,
  parentCluster: number,
  pending: Pending[],
): void {
  let entries: readonly FolderEntry[]
  try {
    entries = host.files.list?.(path) ?? []
  } catch (error) {
    throw isBlockError(error) ? unreadable(path) : error
  }
  for (const entry of entries) {
    const isDots = entry.name === '.' || entry.name === '..'
    // The root folder has no such entries.
    if (isDots && cluster === 0) {
      continue
    }
    if (entry.size > maxFileBytes && entry.kind !== 'directory') {
      host.warn(`File ${path}/${entry.name} is larger than 2GB`)
      throw unreadable(path)
    }
    const index = builder.add(entry)
    if (isDots) {
      builder.setCluster(index, entry.name === '.' ? cluster : parentCluster)
    } else if (entry.kind === 'directory' || (entry.kind === 'regular' && entry.size > 0)) {
      pending.push({ path: `${path}/${entry.name}`, entry, parent: builder, index, parentCluster: cluster })
    }
  }
}

/** Boot sectors and both copies of the allocation table. */
function head(geometry: Geometry, label: string, mappings: readonly Mapping[]): Uint8Array {
  const bytes = new Uint8Array(geometry.root * sectorBytes)
  if (geometry.bootSector > 0) {
    bytes.set(masterBootRecord(geometry))
  }
  bytes.set(bootSector(geometry, label), geometry.bootSector * sectorBytes)
  const at = geometry.fat * sectorBytes
  const table = bytes.subarray(at, at + geometry.fatSectors * sectorBytes)
  const last = geometry.fatType === 12 ? 0xfff : geometry.fatType === 16 ? 0xffff : 0x0fffffff
  for (const { begin, end } of mappings) {
    for (let cluster = begin; cluster < end && begin > 0; cluster++) {
      setLink(table, geometry.fatType, cluster, cluster + 1 === end ? last : cluster + 1)
    }
  }
  setLink(table, geometry.fatType, 0, last)
  setLink(table, geometry.fatType, 1, last)
  table[0] = mediaType(geometry)
  bytes.copyWithin(at + table.length, at, at + table.length)
  return bytes
}

function setLink(table: Uint8Array, fatType: number, cluster: number, value: number): void {
  if (fatType === 12) {
    const at = Math.floor((cluster * 3) / 2)
    const shift = (cluster & 1) * 4
    const before = (table[at] as number) | ((table[at + 1] as number) << 8)
    const joined = (before & ~(0xfff << shift)) | (value << shift)
    table[at] = joined
    table[at + 1] = joined >> 8
    return
  }
  for (let i = 0; i < fatType / 8; i++) {
    table[(cluster * fatType) / 8 + i] = value >>> (i * 8)
  }
}
