import { blockError, isBlockError } from '../../../errors/index.js'
import type { HostFile, HostFiles } from '../../../host/index.js'
import { clusterBytes, type Geometry, sectorBytes } from './geometry.js'
import type { DiskReader, GuestEntry } from './interpret.js'

/** What is known of a folder of the host. */
export interface FolderContents {
  /** By path, folders before what they hold. */
  readonly entries: Map<string, GuestEntry>
  /** Temporary files with contents that an update which failed half-way could not put to their places. */
  readonly leftovers: Set<string>
  /** Folders in which names have changed that may not be durable yet. */
  readonly unsynced: Set<string>
}

/** What has to be done so that the folder is as the guest left the disk. */
export interface Changes {
  readonly newFolders: readonly GuestEntry[]
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
  old: ReadonlyMap<string, GuestEntry>,
  after: readonly GuestEntry[],
  rewritten: (entry: GuestEntry) => boolean,
): Changes {
  const before = [...old.values()]
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
    newFolders: after.filter((entry) => entry.folder && isNew(entry)),
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
 * others have taken in the meantime. `ours`: files that are about to go anyway.
 */
function checkPlaces(files: HostFiles, root: string, changes: Changes, ours: ReadonlySet<string>): void {
  const real = files.realPath(root)
  const fresh = new Set(changes.newFolders.map((f) => f.path))
  const checked = new Set<string>()
  const touched = [
    ...changes.newFolders.map((f) => f.path),
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
    const place = `${root}/${path}`
    const isFree = fresh.has(parent) || ours.has(place) || files.stat(place) === undefined
    if (changes.added.has(path) && !isFree) {
      throw blockError('EEXIST', `'${path}' is there already, nothing was written to the folder`)
    }
  }
}

/** A file on stable storage beside the place it is going to have. */
interface Written {
  readonly temporary: string
  readonly path: string
  readonly entry: GuestEntry
}

/**
 * Carries out `changes` in `root`. New contents are written and synced beside their place first; only then are they
 * renamed to it; when these names are durable, what is gone is removed.
 *
 * `held` is kept true: after a failure it says what the folder holds, so that what is left to do can be found by
 * comparing again. Temporary files then stay until an update succeeds: they may hold the only copy of something.
 *
 * @throws BlockError of the host; before the first rename the files are as they were
 */
export async function apply(
  files: HostFiles,
  root: string,
  geometry: Geometry,
  changes: Changes,
  read: DiskReader,
  held: FolderContents,
): Promise<void> {
  checkPlaces(files, root, changes, held.leftovers)
  await new Update(files, root, geometry, changes, held).run(read)
}

class Update {
  readonly #files: HostFiles
  readonly #root: string
  readonly #geometry: Geometry
  readonly #changes: Changes
  readonly #held: FolderContents
  /** Places that things are going to have: no names for temporary files. */
  readonly #reserved: ReadonlySet<string>
  /** Files that a folder has taken the place of, under temporary names. */
  readonly #aside: { readonly temporary: string; readonly path: string }[] = []
  /** What is still beside its place. */
  readonly #written: Written[] = []
  /** Takes back what was done so far, the newest first. */
  readonly #undo: (() => void)[] = []

  constructor(files: HostFiles, root: string, geometry: Geometry, changes: Changes, held: FolderContents) {
    this.#files = files
    this.#root = root
    this.#geometry = geometry
    this.#changes = changes
    this.#held = held
    this.#reserved = new Set([...changes.files, ...changes.newFolders].map(({ path }) => this.#place(path)))
  }

  async run(read: DiskReader): Promise<void> {
    try {
      await this.#prepare(read)
    } catch (error) {
      for (const undo of this.#undo.reverse()) {
        attempt(undo)
      }
      throw error
    }
    try {
      this.#carryOut()
    } catch (error) {
      for (const { temporary } of [...this.#written, ...this.#aside]) {
        this.#held.leftovers.add(temporary)
      }
      throw error
    }
  }

  #place(path: string): string {
    return path === '' ? this.#root : `${this.#root}/${path}`
  }

  async #prepare(read: DiskReader): Promise<void> {
    const files = this.#files
    for (const entry of this.#changes.newFolders) {
      await this.#makeFolder(entry)
    }
    for (const entry of this.#changes.files) {
      const parent = this.#place(parentOf(entry.path))
      const file = await this.#createBeside(parent)
      const temporary = file.path
      await fill(files, file, this.#geometry, entry, read)
      this.#undo.push(() => files.unlink(temporary))
      const path = this.#place(entry.path)
      const isKept = !this.#changes.added.has(entry.path) && !this.#changes.replaced.has(entry.path)
      if (isKept && files.stat(path) !== undefined) {
        files.copyPermissions?.(path, temporary)
      }
      this.#written.push({ temporary, path, entry })
      this.#touch(entry.path)
    }
  }

  /** A file gives way to a folder of its name: it goes aside until the folder is there to stay. */
  async #makeFolder(entry: GuestEntry): Promise<void> {
    const files = this.#files
    const { entries } = this.#held
    const path = this.#place(entry.path)
    const before = entries.get(entry.path)
    this.#touch(entry.path)
    if (before !== undefined) {
      const file = await this.#createBeside(this.#place(parentOf(entry.path)))
      const temporary = file.path
      this.#undo.push(() => files.unlink(temporary))
      await file.close()
      files.rename(path, temporary)
      entries.delete(entry.path)
      this.#undo.push(() => {
        files.rename(temporary, path)
        entries.set(entry.path, before)
      })
      this.#aside.push({ temporary, path: entry.path })
    }
    files.makeFolder?.(path)
    entries.set(entry.path, entry)
    this.#undo.push(() => {
      files.removeFolder?.(path)
      entries.delete(entry.path)
    })
  }

  async #createBeside(folder: string): Promise<HostFile> {
    for (let number = 0; ; number++) {
      const path = `${folder}/.vvfat-${number}.tmp`
      if (this.#reserved.has(path)) {
        continue
      }
      try {
        return await this.#files.open(path, { write: true, create: true, exclusive: true })
      } catch (error) {
        if ((error as { code?: string }).code !== 'EEXIST' || number > 100_000) {
          throw error
        }
      }
    }
  }

  #carryOut(): void {
    const { gone, replaced } = this.#changes
    // A folder gives way to a file of its name, with all that was in it.
    const givesWay = (path: string): boolean =>
      [...replaced].some((name) => path === name || path.startsWith(`${name}/`))
    // Files that a folder has replaced are aside already.
    const newFolders = new Set(this.#changes.newFolders.map((folder) => folder.path))
    const removed = gone.filter(({ path }) => !newFolders.has(path))
    const early = removed.filter(({ path }) => givesWay(path))
    const { leftovers } = this.#held
    // What one name loses another may have got, so all new contents have durable names first.
    if (this.#written.length > 1 || early.length > 0 || leftovers.size > 0) {
      this.#sync()
    }
    for (const temporary of leftovers) {
      attempt(() => this.#files.unlink(temporary))
    }
    leftovers.clear()
    for (const entry of early) {
      this.#remove(entry)
    }
    for (const { temporary, path, entry } of [...this.#written]) {
      this.#files.rename(temporary, path)
      this.#written.shift()
      this.#held.entries.set(entry.path, entry)
      this.#touch(entry.path)
    }
    const late = removed.filter(({ path }) => !givesWay(path))
    if (late.length > 0 || this.#aside.length > 0) {
      this.#sync()
    }
    for (const entry of late) {
      this.#remove(entry)
    }
    for (const { temporary, path } of [...this.#aside]) {
      this.#files.unlink(temporary)
      this.#aside.shift()
      this.#touch(path)
    }
    this.#sync()
  }

  #remove({ path, folder }: GuestEntry): void {
    const place = this.#place(path)
    if (folder) {
      this.#files.removeFolder?.(place)
    } else if (this.#files.stat(place) !== undefined) {
      this.#files.unlink(place)
    }
    this.#held.entries.delete(path)
    this.#touch(path)
  }

  #touch(path: string): void {
    this.#held.unsynced.add(parentOf(path))
  }

  /** All names are durable. */
  #sync(): void {
    const { unsynced } = this.#held
    for (const path of unsynced) {
      const place = this.#place(path)
      if (this.#files.stat(place)?.kind === 'directory') {
        this.#files.syncFolder?.(place)
      }
      unsynced.delete(path)
    }
  }
}

/** Does what may fail when something else has failed already. */
function attempt(action: () => void): void {
  try {
    action()
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
  }
}

/** Puts the contents of `entry` into a new file, makes them durable and closes it; removes it if that fails. */
async function fill(
  files: HostFiles,
  file: HostFile,
  geometry: Geometry,
  { clusters, size }: GuestEntry,
  read: DiskReader,
): Promise<void> {
  try {
    try {
      const buffer = new Uint8Array(clusterBytes * 64)
      for (let i = 0; i < clusters.length; ) {
        const first = clusters[i] as number
        let count = 1
        while (count < 64 && clusters[i + count] === first + count) {
          count++
        }
        await read(
          geometry.root * sectorBytes + first * clusterBytes,
          buffer.subarray(0, count * clusterBytes),
        )
        const at = i * clusterBytes
        await file.write(at, Math.min(count * clusterBytes, size - at), buffer, 0)
        i += count
      }
      await file.sync()
    } finally {
      await file.close()
    }
  } catch (error) {
    attempt(() => files.unlink(file.path))
    throw error
  }
}
