import { blockError } from '../errors/index.js'
import type { JsonObject, JsonValue } from './json-parse.js'
import { parseInteger } from './size.js'

/**
 * Takes the members of an object that came as JSON or as key-value text, in which all values are text. Errors are QEMU's;
 * the order of the calls decides which comes first.
 */
export class MemberReader {
  readonly #value: JsonObject
  readonly #isJson: boolean
  /** In front of names in messages: `rules.0.` */
  readonly #path: string
  readonly #known = new Set<string>()

  constructor(value: JsonObject, isJson: boolean, path = '') {
    this.#value = value
    this.#isJson = isJson
    this.#path = path
  }

  member(key: string): JsonValue | undefined {
    this.#known.add(key)
    return Object.hasOwn(this.#value, key) ? this.#value[key] : undefined
  }

  /** The value of a boolean member, if it is there. */
  flag(key: string): boolean | undefined {
    const member = this.member(key)
    if (member === undefined) {
      return undefined
    }
    if (this.#isJson) {
      if (typeof member !== 'boolean') {
        throw this.#wrongType(key, 'boolean')
      }
      return member
    }
    if (typeof member !== 'string' || !/^(?:on|off|yes|no|true|false|y|n)$/.test(member)) {
      throw blockError('EINVAL', `Parameter '${this.#path}${key}' expects 'on' or 'off'`)
    }
    return /^(?:on|yes|true|y)$/.test(member)
  }

  optional(key: string): string | undefined {
    const member = this.member(key)
    if (member === undefined || typeof member === 'string') {
      return member
    }
    throw this.#isJson
      ? this.#wrongType(key, 'string')
      : blockError('EINVAL', `Parameters '${this.#path}${key}.*' are unexpected`)
  }

  required(key: string): string {
    const member = this.optional(key)
    if (member === undefined) {
      throw blockError('EINVAL', `Parameter '${this.#path}${key}' is missing`)
    }
    return member
  }

  /** A word out of `words`, if it is there. */
  choice<Word extends string>(key: string, words: readonly Word[]): Word | undefined {
    const member = this.optional(key)
    if (member !== undefined && !(words as readonly string[]).includes(member)) {
      throw blockError('EINVAL', `Parameter '${key}' does not accept value '${member}'`)
    }
    return member as Word | undefined
  }

  /** A signed 64-bit integer; beyond 2^53 it is rounded. */
  integer(key: string): number | undefined {
    const member = this.member(key)
    if (member === undefined) {
      return undefined
    }
    if (this.#isJson) {
      if (typeof member !== 'number' || !Number.isInteger(member)) {
        throw this.#wrongType(key, 'integer')
      }
      return member
    }
    const name = `${this.#path}${key}`
    if (typeof member !== 'string') {
      throw blockError('EINVAL', `Parameters '${name}.*' are unexpected`)
    }
    const value = parseInteger(member)
    if (typeof value === 'string' || BigInt.asIntN(64, value) !== value) {
      throw blockError('EINVAL', `Parameter '${name}' expects integer`)
    }
    return Number(value)
  }

  /** A member that is an object, to be read in turn. */
  object(key: string): MemberReader | undefined {
    const member = this.member(key)
    return member === undefined ? undefined : this.#nested(member, `${this.#path}${key}`)
  }

  /** A member that is an array of objects. */
  objects(key: string): MemberReader[] | undefined {
    const member = this.member(key)
    if (member === undefined) {
      return undefined
    }
    if (!Array.isArray(member)) {
      throw this.#wrongType(key, 'array')
    }
    return member.map((element, index) =>
      this.#nested(element, `${this.#path}${key}${this.#isJson ? `[${index}]` : `.${index}`}`),
    )
  }

  #nested(value: JsonValue, name: string): MemberReader {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw blockError('EINVAL', `Invalid parameter type for '${name}', expected: object`)
    }
    return new MemberReader(value, this.#isJson, `${name}.`)
  }

  #wrongType(key: string, expected: string): Error {
    return blockError('EINVAL', `Invalid parameter type for '${this.#path}${key}', expected: ${expected}`)
  }

  /** Every member must have been looked at. @throws BlockError */
  finish(): void {
    const left = Object.keys(this.#value).find((key) => !this.#known.has(key))
    if (left !== undefined) {
      throw blockError('EINVAL', `Parameter '${this.#path}${left}' is unexpected`)
    }
  }
}
