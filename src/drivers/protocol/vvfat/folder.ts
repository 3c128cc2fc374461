import { writeU16LE, writeU32LE } from '../../../bytes/index.js'
import type { FolderEntry } from '../../../host/index.js'
import { nameChecksum } from './names.js'

export const entryBytes = 32
const unitsPerEntry = 13
const longNameAttribute = 0x0f

/** Date and time in the local zone, as FAT has them: two seconds are the unit. */
function fatTime(milliseconds: number): { date: number; time: number } {
  const at = new Date(milliseconds)
  return {
    date: at.getDate() | ((at.getMonth() + 1) << 5) | (((at.getFullYear() - 1980) & 0x7f) << 9),
    time: (at.getSeconds() >> 1) | (at.getMinutes() << 5) | (at.getHours() << 11),
  }
}

/** The letter as a short name may have it; 0 if it may not. */
function shortLetter(letter: string): number {
  const upper = letter.toUpperCase()
  return upper.length === 1 && /^[0-9A-Z$%'\-_@~`!(){}^#&]$/.test(upper) ? upper.charCodeAt(0) : 0
}

/** The entries of one folder, in the order they are added. */
export class FolderBuilder {
  #bytes = new Uint8Array(64 * entryBytes)
  #count = 0
  readonly #shortNames = new Set<string>()

  /** Number of entries so far. */
  get count(): number {
    return this.#count
  }

  #next(): Uint8Array {
    const at = this.#count++ * entryBytes
    if (at === this.#bytes.length) {
      const grown = new Uint8Array(at * 2)
      grown.set(this.#bytes)
      this.#bytes = grown
    }
    return this.#bytes.subarray(at, at + entryBytes)
  }

  addLabel(label: string): void {
    const entry = this.#next()
    entry.set(new TextEncoder().encode(label.padEnd(11)))
    entry[11] = 0x28
    this.#shortNames.add(String.fromCharCode(...entry.subarray(0, 11)))
  }

  /** Adds a file or folder, with its long name unless it is `.` or `..`; its number. */
  add(file: FolderEntry): number {
    const isDots = file.name === '.' || file.name === '..'
    const name = isDots ? dots(file.name) : this.#shortName(file.name)
    if (!isDots) {
      this.#addLongName(file.name, nameChecksum(name))
    }
    const index = this.#count
    const entry = this.#next()
    entry.set(name)
    entry[11] = file.kind === 'directory' ? 0x10 : 0x20
    const changed = fatTime(file.changed)
    const modified = fatTime(file.modified)
    writeU16LE(entry, 14, changed.time)
    writeU16LE(entry, 16, changed.date)
    writeU16LE(entry, 18, fatTime(file.accessed).date)
    writeU16LE(entry, 22, modified.time)
    writeU16LE(entry, 24, modified.date)
    writeU32LE(entry, 28, file.kind === 'directory' ? 0 : file.size)
    return index
  }

  /** Says where an entry's contents start. */
  setCluster(index: number, cluster: number): void {
    writeU16LE(this.#bytes, index * entryBytes + 26, cluster & 0xffff)
    writeU16LE(this.#bytes, index * entryBytes + 20, cluster >>> 16)
  }

  /** The entries, and zeroes up to `bytes`. */
  finish(bytes: number): Uint8Array {
    const all = new Uint8Array(bytes)
    all.set(this.#bytes.subarray(0, this.#count * entryBytes))
    return all
  }

  /** Last part first, each with the checksum of the short name that follows. */
  #addLongName(name: string, sum: number): void {
    const parts = Math.ceil(name.length / unitsPerEntry)
    for (let part = parts; part > 0; part--) {
      const entry = this.#next()
      entry[0] = part | (part === parts ? 0x40 : 0)
      entry[11] = longNameAttribute
      entry[13] = sum
      for (let i = 0; i < unitsPerEntry; i++) {
        const at = (part - 1) * unitsPerEntry + i
        const unit = at < name.length ? name.charCodeAt(at) : at === name.length ? 0 : 0xffff
        writeU16LE(entry, i < 5 ? 1 + i * 2 : i < 11 ? 14 + (i - 5) * 2 : 28 + (i - 11) * 2, unit)
      }
    }
  }

  /** A name of eight letters and three that no other entry has, with `~1` and so on if something is lost. */
  #shortName(name: string): Uint8Array {
    const short = new Uint8Array(11).fill(0x20)
    const { base, extension, lossy } = splitName(name)
    short.set(base)
    short.set(extension, 8)
    if (short[0] === 0xe5) {
      short[0] = 0x05
    }
    for (let number = lossy ? 1 : 0; number < 999_999; number++) {
      if (number > 0) {
        const tail = `~${number}`
        const at = Math.min(base.length, 8 - tail.length)
        short.set(new TextEncoder().encode(tail), at)
      }
      const key = String.fromCharCode(...short)
      if (!this.#shortNames.has(key)) {
        this.#shortNames.add(key)
        break
      }
    }
    return short
  }
}

function dots(name: string): Uint8Array {
  const short = new Uint8Array(11).fill(0x20)
  short.fill(0x2e, 0, name.length)
  return short
}

/** What of a name goes into the short one: what is before the first dot, and behind the last. */
function splitName(name: string): { base: number[]; extension: number[]; lossy: boolean } {
  const base: number[] = []
  const extension: number[] = []
  let lossy = false
  const letters = [...name]
  let dot = -1
  for (const [i, letter] of letters.entries()) {
    if (letter === '.') {
      if (base.length === 0 || dot >= 0) {
        lossy = true
      }
      dot = base.length === 0 ? dot : i
    } else if (dot < 0) {
      lossy = !put(base, 8, letter) || lossy
    }
  }
  for (const letter of dot < 0 ? [] : letters.slice(dot + 1)) {
    lossy = !put(extension, 3, letter) || lossy
  }
  return { base, extension, lossy }
}

function put(into: number[], room: number, letter: string): boolean {
  const short = shortLetter(letter)
  if (short === 0 || into.length === room) {
    return false
  }
  into.push(short)
  return true
}
