import { qdictOrder } from '../bytes/index.js'
import { blockError } from '../errors/index.js'
import type { JsonValue } from '../options/index.js'
import { parseInteger, parseSizeExact } from '../options/index.js'
import { isWireObject, JsonNumber, plainValue, type WireObject, type WireValue } from './json-number.js'
import {
  type AlternateDef,
  type BuiltinName,
  type EntityDef,
  elementType,
  isBuiltin,
  type MemberDefs,
  memberType,
  type TypeDef,
  typeDef,
  type UnionDef,
} from './schema/index.js'

/** How scalars are given: as JSON, or as text of a command line. */
export type InputKind = 'json' | 'keyval'

/** Where in the input a value stands: what messages call it. */
interface Place {
  /** Member names and indices from the top. */
  readonly path: string
  /** The member alone; elements of lists have none. */
  readonly name: string | undefined
}

const top: Place = { path: '', name: undefined }

function member(at: Place, name: string): Place {
  return { path: at.path === '' ? name : `${at.path}.${name}`, name }
}

/** Messages about an element of a list do not know its name. */
function localName(at: Place): string {
  return at.name ?? 'null'
}

function fail(message: string): never {
  throw blockError('EINVAL', message)
}

function wrongType(at: Place, expected: string): never {
  return fail(`Invalid parameter type for '${at.path === '' ? 'null' : at.path}', expected: ${expected}`)
}

/** Inclusive ranges of the integer types, and what messages call them. */
const ranges: Readonly<Record<string, readonly [low: bigint, high: bigint, text: string]>> = {
  uint16: [0n, (1n << 16n) - 1n, 'uint16_t'],
  uint32: [0n, (1n << 32n) - 1n, 'uint32_t'],
}

const int64: readonly [bigint, bigint] = [-(1n << 63n), (1n << 63n) - 1n]
/** Negative numbers pass for large ones, for the sake of old clients. */
const uint64: readonly [bigint, bigint] = [-(1n << 63n), (1n << 64n) - 1n]

/**
 * Checks a value against the schema and returns it as plain data: numbers are numbers, nothing else is
 * there than what the schema names. Members come in the order of the schema.
 *
 * @throws BlockError with QEMU's text
 */
export class InputChecker {
  readonly #kind: InputKind

  constructor(kind: InputKind = 'json') {
    this.#kind = kind
  }

  /** The arguments of a command. */
  arguments(def: EntityDef, value: WireObject): { readonly [name: string]: JsonValue } {
    if (def.data === undefined) {
      return this.#struct({}, value, top)
    }
    if (typeof def.data !== 'string') {
      return this.#struct(def.data, value, top)
    }
    return this.#def(def.data, typeDef(def.data), value, top) as { [name: string]: JsonValue }
  }

  /** A value of the type called `type`. */
  value(type: string, value: WireValue): JsonValue {
    return this.#value(type, value, top)
  }

  #value(type: string, value: WireValue, at: Place): JsonValue {
    const element = elementType(type)
    if (element !== undefined) {
      if (!Array.isArray(value)) {
        return wrongType(at, 'array')
      }
      return value.map((inner, index) =>
        this.#value(element, inner, { path: `${at.path}[${index}]`, name: undefined }),
      )
    }
    return isBuiltin(type) ? this.#builtin(type, value, at) : this.#def(type, typeDef(type), value, at)
  }

  #def(type: string, def: TypeDef, value: WireValue, at: Place): JsonValue {
    if ('enum' in def) {
      const word = this.#builtin('str', value, at) as string
      return def.enum.includes(word)
        ? word
        : fail(`Parameter '${localName(at)}' does not accept value '${word}'`)
    }
    if ('alternate' in def) {
      return this.#alternate(type, def, value, at)
    }
    if (!isWireObject(value)) {
      return wrongType(at, 'object')
    }
    return 'struct' in def ? this.#struct(def.struct, value, at) : this.#union(def, value, at)
  }

  #struct(defs: MemberDefs, value: WireObject, at: Place): { [name: string]: JsonValue } {
    const result = this.#members(defs, value, at)
    this.#noOthers(result, value, at)
    return result
  }

  #members(defs: MemberDefs, value: WireObject, at: Place): { [name: string]: JsonValue } {
    const result: { [name: string]: JsonValue } = {}
    for (const [key, def] of Object.entries(defs)) {
      const isOptional = key.startsWith('*')
      const name = isOptional ? key.slice(1) : key
      const inner = Object.hasOwn(value, name) ? value[name] : undefined
      if (inner !== undefined) {
        result[name] = this.#value(memberType(def), inner, member(at, name))
      } else if (!isOptional) {
        fail(`Parameter '${member(at, name).path}' is missing`)
      }
    }
    return result
  }

  #union({ union, tag, branches }: UnionDef, value: WireObject, at: Place): JsonValue {
    const result = this.#members(union, value, at)
    const branch = branches[String(result[tag])]
    if (branch !== undefined) {
      Object.assign(result, this.#branch(typeDef(branch), value, at))
    }
    this.#noOthers(result, value, at)
    return result
  }

  #branch(def: TypeDef, value: WireObject, at: Place): { [name: string]: JsonValue } {
    if ('struct' in def) {
      return this.#members(def.struct, value, at)
    }
    if (!('union' in def)) {
      throw new Error('a branch of a union must be an object')
    }
    const result = this.#members(def.union, value, at)
    const branch = def.branches[String(result[def.tag])]
    return branch === undefined ? result : { ...result, ...this.#branch(typeDef(branch), value, at) }
  }

  /** Refuses members that nobody has taken; the first in the order of QEMU's dictionaries is named. */
  #noOthers(taken: object, value: WireObject, at: Place): void {
    const others = Object.keys(value).filter((key) => !Object.hasOwn(taken, key))
    const [first] =
      others.length > 1 ? qdictOrder(Object.keys(value)).filter((k) => others.includes(k)) : others
    if (first !== undefined) {
      fail(`Parameter '${member(at, first).path}' is unexpected`)
    }
  }

  #alternate(type: string, def: AlternateDef, value: WireValue, at: Place): JsonValue {
    for (const name of def.alternate) {
      if (this.#fits(name, value)) {
        return this.#value(name, value, at)
      }
    }
    return fail(`Invalid parameter type for '${localName(at)}', expected: ${type}`)
  }

  #fits(name: string, value: WireValue): boolean {
    if (name === 'str') {
      return typeof value === 'string'
    }
    if (name === 'null') {
      return value === null
    }
    const def = typeDef(name)
    return 'enum' in def ? typeof value === 'string' : isWireObject(value)
  }

  #builtin(type: BuiltinName, value: WireValue, at: Place): JsonValue {
    switch (type) {
      case 'any':
        return plainValue(value)
      case 'null':
        return value === null ? value : wrongType(at, 'null')
      case 'str':
        return typeof value === 'string' ? value : this.#notText(value, at)
      case 'bool':
        return this.#bool(value, at)
      case 'number':
        return this.#number(value, at)
      default:
        return this.#integer(type, value, at)
    }
  }

  #notText(value: WireValue, at: Place): never {
    return this.#kind === 'keyval' && isWireObject(value)
      ? fail(`Parameters '${at.path}.*' are unexpected`)
      : wrongType(at, 'string')
  }

  #bool(value: WireValue, at: Place): boolean {
    if (this.#kind === 'json') {
      return typeof value === 'boolean' ? value : wrongType(at, 'boolean')
    }
    if (typeof value !== 'string') {
      return this.#notText(value, at)
    }
    if (value === 'on' || value === 'yes' || value === 'true' || value === 'y') {
      return true
    }
    if (value === 'off' || value === 'no' || value === 'false' || value === 'n') {
      return false
    }
    return fail(`Parameter '${at.path}' expects 'on' or 'off'`)
  }

  #number(value: WireValue, at: Place): number {
    if (this.#kind === 'keyval') {
      const number = typeof value === 'string' && value !== '' ? Number(value) : Number.NaN
      return Number.isFinite(number) ? number : fail(`Parameter '${at.path}' expects a number`)
    }
    return typeof value === 'number' || value instanceof JsonNumber ? Number(value) : wrongType(at, 'number')
  }

  #integer(type: BuiltinName, value: WireValue, at: Place): number {
    const isUnsigned = type.startsWith('uint') || type === 'size'
    const isWide = type === 'uint64' || type === 'size'
    const wide = isUnsigned ? uint64 : int64
    const integer = this.#kind === 'json' ? jsonInteger(value) : this.#textInteger(type, value, at)
    if (integer === undefined || integer < wide[0] || integer > wide[1]) {
      if (isUnsigned && this.#kind === 'json') {
        return fail(`Parameter '${at.path}' expects uint64`)
      }
      return this.#kind === 'json' ? wrongType(at, 'integer') : fail(`Parameter '${at.path}' expects integer`)
    }
    const range = ranges[type]
    if (range !== undefined && (integer < range[0] || integer > range[1])) {
      return fail(`Parameter '${localName(at)}' expects ${range[2]}`)
    }
    return Number(isWide && integer < 0n ? integer + (1n << 64n) : integer)
  }

  #textInteger(type: BuiltinName, value: WireValue, at: Place): bigint {
    if (typeof value !== 'string') {
      return this.#notText(value, at)
    }
    if (type === 'size') {
      const size = parseSizeExact(value)
      return typeof size === 'bigint' ? size : fail(`Parameter '${at.path}' expects size`)
    }
    const integer = parseInteger(value)
    return typeof integer === 'bigint' ? integer : fail(`Parameter '${at.path}' expects integer`)
  }
}

function jsonInteger(value: WireValue): bigint | undefined {
  if (typeof value === 'number') {
    return BigInt(value)
  }
  return value instanceof JsonNumber && value.isInteger ? BigInt(value.text) : undefined
}
