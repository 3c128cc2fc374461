import { blockError } from '../errors/index.js'
import { type BlockDriver, type BlockLayer, type CreateValues, findProtocol } from '../graph/index.js'
import {
  escapeOptionValue,
  OptionDict,
  type OptionSchema,
  type OptionSpec,
  type OptionTree,
  type OptionValue,
  parseOptionText,
  typeOption,
} from '../options/index.js'

/** Create options as `-o` gives them (`cluster_size=64k,compat=1.1`, commas doubled), or as values. */
export type CreateOptionInput = string | OptionDict | OptionTree

/** The drivers an image is made with, and the create options both know: the format's, then the protocol's. */
export interface CreateTarget {
  readonly driver: BlockDriver
  readonly protocol: BlockDriver
  readonly schema: OptionSchema
}

/**
 * Finds the drivers for creating `filename`. Also what `-o help` lists.
 *
 * @throws BlockError `Unknown file format '%s'`, `Unknown protocol '%s'`,
 *   `Format driver '%s' does not support image creation`,
 *   `Protocol driver '%s' does not support image creation` — in this order.
 */
export function createTarget(layer: BlockLayer, format: string, filename: string): CreateTarget {
  const driver = layer.findFormat(format)
  if (driver === undefined) {
    throw blockError('EINVAL', `Unknown file format '${format}'`)
  }
  const protocol = findProtocol(layer, filename, true)
  if (driver.createOptions === undefined) {
    throw blockError('ENOTSUP', `Format driver '${driver.name}' does not support image creation`)
  }
  if (protocol.createOptions === undefined) {
    throw blockError('ENOTSUP', `Protocol driver '${protocol.name}' does not support image creation`)
  }
  return { driver, protocol, schema: { ...protocol.createOptions, ...driver.createOptions } }
}

/**
 * Create options under way from the user to the driver: each value is typed when it is set, and what
 * the user wrote is kept for the banner.
 */
export class CreateOptions {
  readonly target: CreateTarget
  readonly #given = new Map<string, OptionValue>()

  /** @throws BlockError `Invalid parameter '%s'`, or why a value does not fit its option. */
  constructor(target: CreateTarget, input: CreateOptionInput | undefined) {
    this.target = target
    for (const [name, value] of pairsOf(input)) {
      this.set(name, value)
    }
  }

  /** Whether there is an option of this name. */
  knows(name: string): boolean {
    return Object.hasOwn(this.target.schema, name)
  }

  set(name: string, value: OptionValue): void {
    const spec = this.target.schema[name]
    if (spec === undefined || !this.knows(name)) {
      throw blockError('EINVAL', `Invalid parameter '${name}'`)
    }
    typeOption(name, spec, value)
    this.#given.set(name, value)
  }

  /** The value as text, as the user gave it; undefined if not given. */
  text(name: string): string | undefined {
    const value = this.#given.get(name)
    return value === undefined ? undefined : String(value)
  }

  /** A size or number, typed; undefined if not given and without default. */
  number(name: string): number | undefined {
    const spec = this.target.schema[name]
    const value = this.#given.get(name) ?? spec?.default
    return spec === undefined || value === undefined ? undefined : Number(typeOption(name, spec, value))
  }

  flag(name: string): boolean {
    const spec = this.target.schema[name]
    const value = this.#given.get(name) ?? spec?.default
    return spec !== undefined && value !== undefined && typeOption(name, spec, value) === true
  }

  /** The typed values that were given. */
  values(): CreateValues {
    const values: Record<string, string | number | boolean> = {}
    for (const [name, value] of this.#given) {
      const spec = this.target.schema[name]
      if (spec !== undefined) {
        values[name] = typeOption(name, spec, value)
      }
    }
    return values
  }

  /** The ids of secrets among the values, as options to open the new image with. */
  keySecrets(): OptionDict {
    return new OptionDict([...this.#given].filter(([name]) => name.endsWith('key-secret')))
  }

  /** `Formatting '%s', fmt=%s ` and all options that are given or have a default. */
  banner(filename: string): string {
    // The format's own order comes first, whatever the merged schema's.
    const names = new Set([
      ...Object.keys(this.target.driver.createOptions ?? {}),
      ...Object.keys(this.target.schema),
    ])
    const words: string[] = []
    for (const name of names) {
      const spec = this.target.schema[name]
      const value = this.#given.get(name) ?? spec?.default
      if (spec !== undefined && value !== undefined) {
        words.push(`${name}=${shown(name, spec, value)}`)
      }
    }
    return `Formatting '${filename}', fmt=${this.target.driver.name} ${words.join(' ')}`
  }
}

function shown(name: string, spec: OptionSpec, value: OptionValue): string {
  if (spec.type === 'size' || spec.type === 'number') {
    return String(typeOption(name, spec, value))
  }
  const text = typeof value === 'boolean' ? (value ? 'on' : 'off') : String(value)
  return escapeOptionValue(text)
}

function pairsOf(input: CreateOptionInput | undefined): Iterable<readonly [string, OptionValue]> {
  if (input === undefined) {
    return []
  }
  if (typeof input === 'string') {
    return parseOptionText(input)
  }
  return (input instanceof OptionDict ? input : OptionDict.fromTree(input)).entries()
}
