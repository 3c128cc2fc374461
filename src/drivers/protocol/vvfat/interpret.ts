import { readU16LE, readU32LE } from '../../../bytes/index.js'
import { blockError } from '../../../errors/index.js'
import { bootSector } from './boot.js'
import { clusterBytes, type Geometry, rootClusters, rootEntries, sectorBytes } from './geometry.js'
import { longNameOf, shortNameOf } from './names.js'

const entryBytes = 32
/** Entries of one folder that FAT allows, folders in each other, and entries of a whole disk. */
const maxFolderBytes = 65_536 * entryBytes
const maxDepth = 64
const maxEntries = 500_000

/** A file or folder as the guest left it. */
export interface GuestEntry {
  /** Relative to the folder, with `/`; made of checked names. */
  readonly path: string
  readonly folder: boolean
  /** Bytes; 0 for folders. */
  readonly size: number
  /** In order; without those of the root folder. */
  readonly clusters: readonly number[]
}

/** Fills a buffer from `offset` bytes on the disk. */
export type DiskReader = (offset: number, buffer: Uint8Array) => Promise<void>

function inconsistent(what: string): Error {
  return blockError('EIO', `The FAT file system is inconsistent, nothing was written to the folder: ${what}`)
}

/** Link of `cluster`: the next one, or `undefined` at the end. Throws if there can be no such link. */
function linkOf(
  table: Uint8Array,
  { fatType, clusters }: Geometry,
  cluster: number,
  path: string,
): number | undefined {
  let link: number
  if (fatType === 12) {
    link = (readU16LE(table, Math.floor((cluster * 3) / 2)) >> ((cluster & 1) * 4)) & 0xfff
  } else {
    link = readU16LE(table, cluster * 2)
  }
  const last = fatType === 12 ? 0xff8 : 0xfff8
  if (link >= last) {
    return undefined
  }
  if (link < rootClusters || link >= clusters) {
    throw inconsistent(`'${path}': cluster ${cluster} leads to ${link}`)
  }
  return link
}

/** The boot sector may get another label or serial number, but nothing that moves the tables. */
function checkBoot(head: Uint8Array, geometry: Geometry): void {
  const expected = bootSector(geometry, '')
  const at = geometry.bootSector * sectorBytes
  for (let i = 11; i < 36; i++) {
    if (head[at + i] !== expected[i]) {
      throw inconsistent(`byte ${i} of the boot sector has changed`)
    }
  }
}

/**
 * Everything on a disk of FAT12 or FAT16 with our geometry, folders before what they hold.
 *
 * Written by a guest, so nothing is believed: clusters belong to one entry at most, chains have the length that
 * sizes say, names cannot leave the folder.
 *
 * @param trusted names that stand in the folder already, which may have letters that FAT forbids; absent: all may
 * @throws BlockError EIO that says which entry is wrong
 */
export async function interpret(
  geometry: Geometry,
  read: DiskReader,
  trusted?: ReadonlySet<string>,
): Promise<readonly GuestEntry[]> {
  const head = new Uint8Array(geometry.root * sectorBytes)
  await read(0, head)
  checkBoot(head, geometry)
  const tableAt = geometry.fat * sectorBytes
  const tableBytes = geometry.fatSectors * sectorBytes
  const table = head.subarray(tableAt, tableAt + tableBytes)
  for (let i = 0; i < tableBytes; i++) {
    if (table[i] !== head[tableAt + tableBytes + i]) {
      const cluster = Math.floor((i * 8) / geometry.fatType)
      throw inconsistent(`the two tables differ at cluster ${cluster}`)
    }
  }
  const owned = new Uint8Array(geometry.clusters)
  const chain = (first: number, path: string, limit: number): number[] => {
    const clusters: number[] = []
    for (let cluster: number | undefined = first; cluster !== undefined; ) {
      if (cluster < rootClusters || cluster >= geometry.clusters) {
        throw inconsistent(`'${path}' starts at cluster ${cluster}`)
      }
      if (owned[cluster] === 1) {
        throw inconsistent(`'${path}': cluster ${cluster} is used twice`)
      }
      if (clusters.length === limit) {
        throw inconsistent(`'${path}' has more clusters than its ${limit}`)
      }
      owned[cluster] = 1
      clusters.push(cluster)
      cluster = linkOf(table, geometry, cluster, path)
    }
    return clusters
  }

  const entries: GuestEntry[] = []
  const addFolder = async (path: string, clusters: readonly number[]): Promise<void> => {
    const bytes = await readFolder(geometry, read, path, clusters)
    const names = new Set<string>()
    for (const raw of listFolder(bytes, path === '')) {
      const name = raw.name
      const full = path === '' ? name : `${path}/${name}`
      const complaint = complaintAbout(name, trusted?.has(full) ?? true)
      if (complaint !== undefined) {
        throw inconsistent(`a name in '${path}' ${complaint}: ${JSON.stringify(name)}`)
      }
      if (names.has(name)) {
        throw inconsistent(`'${full}' is there twice`)
      }
      names.add(name)
      if (raw.folder && full.split('/').length > maxDepth) {
        throw inconsistent(`'${full}' is too deep`)
      }
      if (entries.length === maxEntries) {
        throw inconsistent(`there are more than ${maxEntries} entries`)
      }
      const need = raw.folder ? maxFolderBytes / clusterBytes : Math.ceil(raw.size / clusterBytes)
      if (raw.cluster === 0 && need > 0) {
        throw inconsistent(`'${full}' has no clusters`)
      }
      const found = raw.cluster === 0 ? [] : chain(raw.cluster, full, need)
      if (!raw.folder && found.length !== need) {
        throw inconsistent(`'${full}' has ${found.length} clusters instead of ${need}`)
      }
      entries.push({ path: full, folder: raw.folder, size: raw.folder ? 0 : raw.size, clusters: found })
    }
  }
  await addFolder(
    '',
    Array.from({ length: rootClusters }, (_, i) => i),
  )
  // Grows while it is walked.
  for (let i = 0; i < entries.length; i++) {
    const { folder, path, clusters } = entries[i] as GuestEntry
    if (folder) {
      await addFolder(path, clusters)
    }
  }
  return entries
}

async function readFolder(
  geometry: Geometry,
  read: DiskReader,
  path: string,
  clusters: readonly number[],
): Promise<Uint8Array> {
  const bytes = new Uint8Array(clusters.length * clusterBytes)
  for (const [i, cluster] of clusters.entries()) {
    const at = geometry.root * sectorBytes + cluster * clusterBytes
    await read(at, bytes.subarray(i * clusterBytes, (i + 1) * clusterBytes))
  }
  return path === '' ? bytes.subarray(0, rootEntries * entryBytes) : bytes
}

interface RawEntry {
  readonly name: string
  readonly folder: boolean
  readonly size: number
  readonly cluster: number
}

/** The entries of a folder without `.`, `..`, labels and deleted ones. */
function listFolder(bytes: Uint8Array, isRoot: boolean): RawEntry[] {
  const found: RawEntry[] = []
  let long: Uint8Array[] = []
  for (let at = 0; at < bytes.length && bytes[at] !== 0; at += entryBytes) {
    const entry = bytes.subarray(at, at + entryBytes)
    const attributes = entry[11] as number
    if (entry[0] !== 0xe5 && (attributes & 0x3f) === 0x0f) {
      long.push(entry)
      continue
    }
    const parts = long
    long = []
    if (entry[0] === 0xe5 || (attributes & 0x08) !== 0) {
      continue
    }
    if (!isRoot && at < 2 * entryBytes && isDots(entry)) {
      continue
    }
    found.push({
      name: longNameOf(parts, entry) ?? shortNameOf(entry),
      folder: (attributes & 0x10) !== 0,
      size: readU32LE(entry, 28),
      cluster: readU16LE(entry, 26),
    })
  }
  return found
}

function isDots(entry: Uint8Array): boolean {
  const name = String.fromCharCode(...entry.subarray(0, 11)).trimEnd()
  return name === '.' || name === '..'
}

/** Why a name must not be used for a host file. */
function complaintAbout(name: string, trusted: boolean): string | undefined {
  if (name === '' || name === '.' || name === '..' || name.includes('/') || name.includes('\0')) {
    return 'cannot be that of a file'
  }
  if (trusted) {
    return undefined
  }
  if (new TextEncoder().encode(name).length > 255) {
    return 'is too long'
  }
  // Also what other systems take for a path or a stream, and halves of letters, which no file system keeps.
  for (const letter of name) {
    const code = letter.codePointAt(0) as number
    if (code < 32 || code === 127 || '\\:*?"<>|'.includes(letter) || (code >= 0xd800 && code < 0xe000)) {
      return 'has a letter that names cannot have'
    }
  }
  return undefined
}
