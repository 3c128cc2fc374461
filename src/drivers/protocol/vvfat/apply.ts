import { blockError } from '../../../errors/index.js'
import type { HostFile, HostFiles } from '../../../host/index.js'
import { clusterBytes, type Geometry, sectorBytes } from './geometry.js'
import type { DiskReader, GuestEntry } from './interpret.js'

/** What has to be done so that the folder is as the guest left the disk. */
export interface Changes {
  readonly newFolders: readonly string[]
  /** New or with other contents. */
  readonly files: readonly GuestEntry[]
  /** Names that are gone, what a folder holds before the folder. */
  readonly gone: readonly GuestEntry[]
  /** The names in `gone` that something of the other kind takes over. */
  readonly replaced: ReadonlySet<string>
  /** Names that were not there before. */
  readonly added: ReadonlySet<string>
}

/** @param rewritten whether the contents of a file, with the clusters and size it had, were written to */
export function compare(
  before: readonly GuestEntry[],
  after: readonly GuestEntry[],
  rewritten: (entry: GuestEntry) => boolean,
): Changes {
  const old = new Map(before.map((entry) => [entry.path, entry]))
  const now = new Map(after.map((entry) => [entry.path, entry]))
  const isNew = ({ path, folder }: GuestEntry): boolean => old.get(path)?.folder !== folder
  const same = (entry: GuestEntry, was: GuestEntry): boolean =>
    entry.size === was.size &&
    entry.clusters.length === was.clusters.length &&
    entry.clusters.every((cluster, i) => cluster === was.clusters[i]) &&
    !rewritten(entry)
  const files = after.filter(
    (entry) => !entry.folder && (isNew(entry) || !same(entry, old.get(entry.path) as GuestEntry)),
  )
  const gone = before.filter((entry) => now.get(entry.path)?.folder !== entry.folder).reverse()
  return {
    newFolders: after.filter((entry) => entry.folder && isNew(entry)).map(({ path }) => path),
    files,
    gone,
    replaced: new Set(gone.filter(({ path }) => now.has(path)).map(({ path }) => path)),
    added: new Set(after.filter(({ path }) => !old.has(path)).map(({ path }) => path)),
  }
}

function parentOf(path: string): string {
  return path.slice(0, Math.max(0, path.lastIndexOf('/')))
}

/**
 * Refuses changes in folders that are reached through links, or that are no folders any more, and names that
 * others have taken in the meantime.
 */
function checkPlaces(files: HostFiles, root: string, changes: Changes): void {
  const real = files.realPath(root)
  const fresh = new Set(changes.newFolders)
  const checked = new Set<string>()
  const touched = [
    ...changes.newFolders,
    ...changes.files.map((f) => f.path),
    ...changes.gone.map((f) => f.path),
  ]
  for (const path of touched) {
    const parent = parentOf(path)
    if (!checked.has(parent) && !fresh.has(parent)) {
      checked.add(parent)
      const place = parent === '' ? root : `${root}/${parent}`
      const expected = real === undefined || parent === '' ? real : `${real}/${parent}`.replace(/^\/\//, '/')
      if (expected === undefined || files.realPath(place) !== expected) {
        throw blockError('EPERM', `'${path}' is behind a link, nothing was written to the folder`)
      }
    }
    if (changes.added.has(path) && !fresh.has(parent) && files.stat(`${root}/${path}`) !== undefined) {
      throw blockError('EEXIST', `'${path}' is there already, nothing was written to the folder`)
    }
  }
}

/**
 * Carries out `changes` in `root`. New contents are written and synced beside their place first; only then are they
 * renamed to it, and only after that what is gone is removed.
 *
 * @throws BlockError of the host; before the first rename the files are as they were
 */
export async function apply(
  files: HostFiles,
  root: string,
  geometry: Geometry,
  changes: Changes,
  read: DiskReader,
): Promise<void> {
  checkPlaces(files, root, changes)
  const written: { readonly temporary: string; readonly path: string; readonly fresh: boolean }[] = []
  const folders = new Set<string>([''])
  const remove = (entry: GuestEntry): void => {
    const path = `${root}/${entry.path}`
    if (entry.folder) {
      files.removeFolder?.(path)
    } else if (files.stat(path) !== undefined) {
      files.unlink(path)
    }
    folders.add(parentOf(entry.path))
  }
  try {
    for (const path of changes.newFolders) {
      // A file gives way to a folder of its name.
      if (changes.replaced.has(path)) {
        files.unlink(`${root}/${path}`)
      }
      files.makeFolder?.(`${root}/${path}`)
      folders.add(parentOf(path))
    }
    for (const entry of changes.files) {
      const parent = parentOf(entry.path)
      const path = `${root}/${entry.path}`
      const temporary = await writeBeside(
        files,
        parent === '' ? root : `${root}/${parent}`,
        geometry,
        entry,
        read,
      )
      written.push({
        temporary,
        path,
        fresh: changes.added.has(entry.path) || changes.replaced.has(entry.path),
      })
      folders.add(parent)
    }
  } catch (error) {
    for (const { temporary } of written) {
      files.unlink(temporary)
    }
    for (const path of changes.newFolders.toReversed()) {
      if (files.stat(`${root}/${path}`) !== undefined) {
        files.removeFolder?.(`${root}/${path}`)
      }
    }
    throw error
  }
  // A folder gives way to a file of its name, with all that was in it.
  const replacedByFile = (path: string): boolean =>
    [...changes.replaced].some((name) => path === name || path.startsWith(`${name}/`))
  const early = new Set(changes.gone.filter(({ path }) => replacedByFile(path)))
  for (const entry of early) {
    if (entry.folder || !changes.newFolders.includes(entry.path)) {
      remove(entry)
    }
  }
  for (const { temporary, path, fresh } of written) {
    if (!fresh && files.stat(path) !== undefined) {
      files.copyPermissions?.(path, temporary)
    }
    files.rename(temporary, path)
  }
  for (const entry of changes.gone) {
    if (!early.has(entry)) {
      remove(entry)
    }
  }
  for (const path of folders) {
    const place = path === '' ? root : `${root}/${path}`
    if (files.stat(place)?.kind === 'directory') {
      files.syncFolder?.(place)
    }
  }
}

async function createBeside(files: HostFiles, folder: string): Promise<HostFile> {
  for (let number = 0; ; number++) {
    try {
      return await files.open(`${folder}/.vvfat-${number}.tmp`, {
        write: true,
        create: true,
        exclusive: true,
      })
    } catch (error) {
      if ((error as { code?: string }).code !== 'EEXIST' || number > 100_000) {
        throw error
      }
    }
  }
}

/** A new file in `folder` with the contents of `entry`, on stable storage; its path. */
async function writeBeside(
  files: HostFiles,
  folder: string,
  geometry: Geometry,
  { clusters, size }: GuestEntry,
  read: DiskReader,
): Promise<string> {
  const file = await createBeside(files, folder)
  try {
    const buffer = new Uint8Array(clusterBytes * 64)
    for (let i = 0; i < clusters.length; ) {
      const first = clusters[i] as number
      let count = 1
      while (count < 64 && clusters[i + count] === first + count) {
        count++
      }
      await read(geometry.root * sectorBytes + first * clusterBytes, buffer.subarray(0, count * clusterBytes))
      const at = i * clusterBytes
      await file.write(at, Math.min(count * clusterBytes, size - at), buffer, 0)
      i += count
    }
    await file.sync()
    await file.close()
  } catch (error) {
    await file.close()
    files.unlink(file.path)
    throw error
  }
  return file.path
}
