import { allDrivers } from '../../src/all-drivers.js'
import { type BlockNode, createBlockLayer } from '../../src/graph/index.js'
import { FolderHost, rootPath, type Tree } from './folder-host.js'

const sector = 512

/** Small disks: FAT12, and FAT16 on a floppy. */
export const kinds = ['floppy:', '16:floppy:'] as const

/** The folder as a disk that can be written to, until `use` is done. */
export async function withDisk(
  host: FolderHost,
  kind: string,
  use: (node: BlockNode) => Promise<void>,
): Promise<void> {
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const node = await layer.open(`fat:rw:${kind}${rootPath}`, { driver: 'raw' }, { write: true })
  try {
    await use(node)
  } finally {
    await layer.unref(node)
  }
}

/** The disk that a folder with these contents is. */
async function diskOf(tree: Tree, kind: string): Promise<Uint8Array> {
  const layer = createBlockLayer({ host: new FolderHost(tree), drivers: allDrivers })
  const node = await layer.open(`fat:${kind}${rootPath}`, { driver: 'raw' })
  const bytes = await readDisk(node)
  await layer.unref(node)
  return bytes
}

async function readDisk(node: BlockNode): Promise<Uint8Array> {
  const bytes = new Uint8Array(node.length)
  await node.read(0, bytes.length, bytes, 0, 0)
  return bytes
}

/** A guest that makes of what is on the disk a file system with these contents. Nothing is flushed. */
export async function become(node: BlockNode, tree: Tree, kind: string, random: () => number): Promise<void> {
  const wanted = await diskOf(tree, kind)
  const there = await readDisk(node)
  const different: number[] = []
  for (let at = 0; at < wanted.length; at += sector) {
    if (Buffer.compare(wanted.subarray(at, at + sector), there.subarray(at, at + sector)) !== 0) {
      different.push(at)
    }
  }
  // In any order, as a guest's own cache has it.
  for (let i = different.length - 1; i > 0; i--) {
    const other = Math.floor(random() * (i + 1))
    ;[different[i], different[other]] = [different[other] as number, different[i] as number]
  }
  for (const at of different) {
    await node.write(at, sector, wanted, at, 0)
  }
}

const fileNames = ['a.txt', 'B', 'A long name of a file.bin', 'sub', 'other']
const folderNames = ['sub', 'other', 'a.txt']

/** Trees that follow from one another by what users do to files. Contents that are not empty are never the same. */
export class RandomTree {
  tree: Map<string, Uint8Array | undefined> = new Map()
  readonly #random: () => number
  #contents = 0

  constructor(random: () => number) {
    this.#random = random
    this.change(12)
  }

  #below(count: number): number {
    return Math.floor(this.#random() * count)
  }

  #bytes(): Uint8Array {
    const number = ++this.#contents
    const bytes = new Uint8Array(this.#random() < 0.1 ? 0 : 1 + this.#below(20_000))
    for (let i = 0; i < bytes.length; i++) {
      bytes[i] = (number * 31 + i * 7 + (i >> 8)) & 255
    }
    // Its number at the start tells it from all others.
    bytes.set(new TextEncoder().encode(`contents ${number} `).subarray(0, bytes.length))
    return bytes
  }

  #pick(isFolder: boolean): string | undefined {
    const all = [...this.tree].filter(([, bytes]) => (bytes === undefined) === isFolder)
    return all[this.#below(all.length)]?.[0]
  }

  #remove(path: string): void {
    for (const name of [...this.tree.keys()]) {
      if (name === path || name.startsWith(`${path}/`)) {
        this.tree.delete(name)
      }
    }
  }

  /** A name in some folder that nothing has. */
  #free(names: readonly string[]): string | undefined {
    const folder = this.#random() < 0.5 ? undefined : this.#pick(true)
    const name = names[this.#below(names.length)] ?? ''
    const path = folder === undefined ? name : `${folder}/${name}`
    return path.split('/').length > 3 || this.tree.has(path) ? undefined : path
  }

  change(steps: number): void {
    for (let step = 0; step < steps; step++) {
      const action = this.#random()
      const file = this.#pick(false)
      const folder = this.#pick(true)
      const free = this.#free(action < 0.7 ? fileNames : folderNames)
      if (action < 0.3 && free !== undefined) {
        this.tree.set(free, this.#bytes())
      } else if (action < 0.5 && file !== undefined) {
        this.tree.set(file, this.#bytes())
      } else if (action < 0.7 && file !== undefined && free !== undefined) {
        const bytes = this.tree.get(file)
        this.tree.delete(file)
        this.tree.set(free, bytes)
      } else if (action < 0.8 && free !== undefined) {
        this.tree.set(free, undefined)
      } else if (action < 0.87 && file !== undefined) {
        this.tree.delete(file)
      } else if (action < 0.9 && folder !== undefined) {
        this.#remove(folder)
      } else if (action < 0.95 && folder !== undefined) {
        // A file takes the place of a folder.
        this.#remove(folder)
        this.tree.set(folder, this.#bytes())
      } else if (file !== undefined) {
        // And the other way round, keeping what it held under another name.
        const bytes = this.tree.get(file)
        this.tree.set(file, undefined)
        this.tree.set(`${file}/a.txt`, bytes)
      }
    }
  }

  /** A copy: parents first, whatever was done in which order. */
  snapshot(): Map<string, Uint8Array | undefined> {
    return new Map([...this.tree].sort(([a], [b]) => (a < b ? -1 : 1)))
  }
}

const temporary = /(^|\/)\.vvfat-\d+\.tmp$/

/** The tree without temporary files, in the order of names, as text for comparing. */
export function shown(tree: Tree): string[] {
  return [...tree]
    .filter(([path]) => !temporary.test(path))
    .map(described)
    .sort()
}

function described([path, bytes]: readonly [string, Uint8Array | undefined]): string {
  return bytes === undefined ? `${path}/` : `${path} ${digest(bytes)}`
}

/** Contents as text that differs where they do. */
function digest(bytes: Uint8Array): string {
  let sum = 0
  for (const byte of bytes) {
    sum = (Math.imul(sum, 31) + byte) >>> 0
  }
  return `${bytes.length} bytes ${sum.toString(16)} ${JSON.stringify(Buffer.from(bytes.subarray(0, 14)).toString('latin1'))}`
}

/** What contradicts "each file is as before or as after", or loses contents that both have. */
export function problemOf(found: Tree, before: Tree, after: Tree): string | undefined {
  for (const path of new Set([...found.keys(), ...before.keys(), ...after.keys()])) {
    if (temporary.test(path)) {
      continue
    }
    const one = (tree: Tree): string => (tree.has(path) ? described([path, tree.get(path)]) : 'nothing')
    const is = one(found)
    // A file and a folder of one name need a moment between them without either.
    const isReplaced =
      before.has(path) &&
      after.has(path) &&
      (before.get(path) === undefined) !== (after.get(path) === undefined)
    if (is !== one(before) && is !== one(after) && !(isReplaced && is === 'nothing')) {
      // What was in a folder that is not there yet, or not any more.
      const parent = path.slice(0, Math.max(0, path.lastIndexOf('/')))
      if (!(is === 'nothing' && parent !== '' && !found.has(parent))) {
        return `${path}: ${is}, before ${one(before)}, after ${one(after)}`
      }
    }
  }
  const contents = (tree: Tree): Set<string> =>
    new Set(
      [...tree.values()]
        .filter((bytes) => bytes !== undefined && bytes.length > 13)
        .map((b) => digest(b as Uint8Array)),
    )
  const left = contents(found)
  const later = contents(after)
  for (const one of contents(before)) {
    if (later.has(one) && !left.has(one)) {
      return `contents that were kept are lost: ${one}`
    }
  }
  return undefined
}
