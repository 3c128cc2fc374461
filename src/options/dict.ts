import { qdictOrder } from '../bytes/index.js'

/** A leaf of an option tree. Command-line text stays a string until its consumer types it. */
export type OptionValue = string | number | boolean | null

/** Nested options as users write them in the library and as `json:` names hold them. */
export interface OptionTree {
  readonly [key: string]: OptionValue | OptionTree | readonly (OptionValue | OptionTree)[] | undefined
}

/**
 * Options flattened to dotted keys (`file.driver`, `children.0.filename`), in insertion order
 * (seed L961-986: nested dictionaries and lists are the same as their flattened form).
 */
export class OptionDict {
  readonly #entries = new Map<string, OptionValue>()

  constructor(entries?: Iterable<readonly [string, OptionValue]>) {
    for (const [key, value] of entries ?? []) {
      this.#entries.set(key, value)
    }
  }

  static fromTree(tree: OptionTree): OptionDict {
    const dict = new OptionDict()
    flattenInto(dict, '', tree)
    return dict
  }

  get size(): number {
    return this.#entries.size
  }

  has(key: string): boolean {
    return this.#entries.has(key)
  }

  get(key: string): OptionValue | undefined {
    return this.#entries.get(key)
  }

  /** The value if it is text; numbers and booleans are not converted. */
  getString(key: string): string | undefined {
    const value = this.#entries.get(key)
    return typeof value === 'string' ? value : undefined
  }

  set(key: string, value: OptionValue): void {
    this.#entries.set(key, value)
  }

  setDefault(key: string, value: OptionValue): void {
    if (!this.#entries.has(key)) {
      this.#entries.set(key, value)
    }
  }

  delete(key: string): void {
    this.#entries.delete(key)
  }

  /** Removes and returns a value. */
  take(key: string): OptionValue | undefined {
    const value = this.#entries.get(key)
    this.#entries.delete(key)
    return value
  }

  entries(): IterableIterator<[string, OptionValue]> {
    return this.#entries.entries()
  }

  /** The names in the order in which QEMU's dictionaries would visit them: what it finds first, it complains about. */
  keys(): string[] {
    return qdictOrder([...this.#entries.keys()])
  }

  clone(): OptionDict {
    return new OptionDict(this.#entries)
  }

  /** Removes the options below `prefix` (which ends in a dot) and returns them without it. */
  takeSubtree(prefix: string): OptionDict {
    const sub = new OptionDict()
    for (const [key, value] of [...this.#entries]) {
      if (key.startsWith(prefix)) {
        sub.set(key.slice(prefix.length), value)
        this.#entries.delete(key)
      }
    }
    return sub
  }

  hasSubtree(prefix: string): boolean {
    for (const key of this.#entries.keys()) {
      if (key.startsWith(prefix)) {
        return true
      }
    }
    return false
  }

  /** Adds the options of `other`; existing ones stay unless `overwrite`. */
  join(other: OptionDict, overwrite: boolean): void {
    for (const [key, value] of other.entries()) {
      if (overwrite || !this.#entries.has(key)) {
        this.#entries.set(key, value)
      }
    }
  }
}

function flattenInto(dict: OptionDict, prefix: string, tree: OptionTree): void {
  for (const [key, value] of Object.entries(tree)) {
    const path = prefix === '' ? key : `${prefix}.${key}`
    if (value === undefined) {
      continue
    }
    if (value === null || typeof value !== 'object') {
      dict.set(path, value)
    } else {
      const nested = Array.isArray(value) ? Object.fromEntries(value.map((v, i) => [String(i), v])) : value
      flattenInto(dict, path, nested as OptionTree)
    }
  }
}
