import { blockError, isBlockError } from '../errors/index.js'
import { JsonLexer, type JsonToken, jsonError } from './json-lexer.js'

/** A JSON value. Integers beyond 2^53 are rounded. */
export type JsonValue = null | boolean | number | string | JsonValue[] | JsonObject

export interface JsonObject {
  [key: string]: JsonValue
}

/** Open braces and brackets at once. */
const maxNesting = 1024
const maxTokens = 2 * 1024 * 1024

/** A JSON value whose numbers may also be of another type. */
export type JsonWith<N> =
  | null
  | boolean
  | number
  | string
  | N
  | JsonWith<N>[]
  | { [key: string]: JsonWith<N> }

/**
 * Parses JSON as QEMU does: strings also in single quotes, keys unique, one value only.
 *
 * @param numberOf makes the value of a number from its text; default: a JavaScript number
 * @throws BlockError EINVAL `JSON parse error, …`, `Expecting a JSON value`,
 *   `Expecting at most one JSON value`
 */
export function parseJson(text: string): JsonValue
export function parseJson<N>(text: string, numberOf: (text: string) => number | N): JsonWith<N>
export function parseJson<N>(text: string, numberOf: (text: string) => number | N = Number): JsonWith<N> {
  const lexer = new JsonLexer(text)
  let result: { readonly value: JsonWith<N> } | undefined
  try {
    for (let tokens = nextMessage(lexer); tokens.length > 0; tokens = nextMessage(lexer)) {
      if (result !== undefined) {
        throw tooMany()
      }
      result = { value: new JsonParser<N>(tokens, numberOf).value() }
    }
  } catch (error) {
    // Whatever follows a complete value is one value too many, even if it is none.
    throw result !== undefined && isBlockError(error) ? tooMany() : error
  }
  if (result === undefined) {
    throw blockError('EINVAL', 'Expecting a JSON value')
  }
  return result.value
}

function tooMany() {
  return blockError('EINVAL', 'Expecting at most one JSON value')
}

/** The tokens of one value: up to where braces and brackets balance, or where they never will. */
function nextMessage(lexer: JsonLexer): JsonToken[] {
  const tokens: JsonToken[] = []
  let braces = 0
  let brackets = 0
  for (let token = lexer.next(); token !== undefined; token = lexer.next()) {
    braces += token.kind === '{' ? 1 : token.kind === '}' ? -1 : 0
    brackets += token.kind === '[' ? 1 : token.kind === ']' ? -1 : 0
    if (tokens.length >= maxTokens) {
      throw blockError('EINVAL', 'JSON token count limit exceeded')
    }
    if (braces + brackets > maxNesting) {
      throw blockError('EINVAL', 'JSON nesting depth limit exceeded')
    }
    tokens.push(token)
    if (braces < 0 || brackets < 0 || (braces === 0 && brackets === 0)) {
      break
    }
  }
  return tokens
}

class JsonParser<N> {
  readonly #tokens: readonly JsonToken[]
  readonly #numberOf: (text: string) => number | N
  #at = 0

  constructor(tokens: readonly JsonToken[], numberOf: (text: string) => number | N) {
    this.#tokens = tokens
    this.#numberOf = numberOf
  }

  #peek(): JsonToken {
    const token = this.#tokens[this.#at]
    if (token === undefined) {
      throw jsonError('premature EOI')
    }
    return token
  }

  #pop(): JsonToken {
    const token = this.#peek()
    this.#at++
    return token
  }

  value(): JsonWith<N> {
    const token = this.#pop()
    switch (token.kind) {
      case '{':
        return this.#object()
      case '[':
        return this.#list()
      case 'string':
        return unquote(token.text)
      case 'integer':
      case 'float':
        return this.#numberOf(token.text)
      case 'keyword':
        return keywordValue(token.text)
      default:
        throw jsonError('expecting value')
    }
  }

  #object(): { [key: string]: JsonWith<N> } {
    const result: { [key: string]: JsonWith<N> } = {}
    if (this.#peek().kind === '}') {
      this.#at++
      return result
    }
    for (;;) {
      this.#peek()
      const key = this.value()
      if (typeof key !== 'string') {
        throw jsonError('key is not a string in object')
      }
      if (this.#pop().kind !== ':') {
        throw jsonError('missing : in object pair')
      }
      const value = this.value()
      if (Object.hasOwn(result, key)) {
        throw jsonError('duplicate key')
      }
      // Not by assignment: `__proto__` is a key like any other.
      Object.defineProperty(result, key, { value, enumerable: true, configurable: true, writable: true })
      const next = this.#pop().kind
      if (next === '}') {
        return result
      }
      if (next !== ',') {
        throw jsonError('expected separator in dict')
      }
    }
  }

  #list(): JsonWith<N>[] {
    const result: JsonWith<N>[] = []
    if (this.#peek().kind === ']') {
      this.#at++
      return result
    }
    for (;;) {
      result.push(this.value())
      const next = this.#pop().kind
      if (next === ']') {
        return result
      }
      if (next !== ',') {
        throw jsonError('expected separator in list')
      }
    }
  }
}

function keywordValue(text: string): boolean | null {
  switch (text) {
    case 'true':
      return true
    case 'false':
      return false
    case 'null':
      return null
    default:
      throw jsonError(`invalid keyword '${text}'`)
  }
}

const escapes: Readonly<Record<string, string>> = {
  '"': '"',
  "'": "'",
  '\\': '\\',
  '/': '/',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
}

/** The value of a string token. */
function unquote(token: string): string {
  const text = token.slice(1, -1)
  let result = ''
  for (let at = 0; at < text.length; ) {
    const char = text[at] as string
    if (char !== '\\') {
      result += char
      at++
      continue
    }
    const letter = text[at + 1] ?? ''
    if (letter === 'u') {
      const { character, length } = unicodeEscape(text, at, token)
      result += character
      at += length
      continue
    }
    const plain = escapes[letter]
    if (plain === undefined) {
      throw jsonError('invalid escape sequence in string')
    }
    result += plain
    at += 2
  }
  return result
}

function hexCode(text: string, at: number): number {
  const digits = text.slice(at, at + 4)
  return /^[0-9a-fA-F]{4}$/.test(digits) ? Number.parseInt(digits, 16) : -1
}

/** The character of an escape `\uXXXX` (two for a surrogate pair) at `at`, and how long that is. */
function unicodeEscape(text: string, at: number, token: string): { character: string; length: number } {
  let code = hexCode(text, at + 2)
  let length = 6
  if (code >= 0xd800 && code <= 0xdbff && text.startsWith('\\u', at + 6)) {
    const trailing = hexCode(text, at + 8)
    if (trailing >= 0xdc00 && trailing <= 0xdfff) {
      code = 0x10000 + ((code & 0x3ff) << 10) + (trailing & 0x3ff)
      length = 12
    } else {
      code = -1
    }
  }
  const surrogate = code >= 0xd800 && code <= 0xdfff
  const noncharacter = (code >= 0xfdd0 && code <= 0xfdef) || (code & 0xfffe) === 0xfffe
  if (code < 0 || surrogate || noncharacter) {
    // Counted from the token, whose closing quote may be part of a cut escape.
    throw jsonError(`${token.slice(at + 1, at + 1 + length)} is not a valid Unicode character`)
  }
  return { character: String.fromCodePoint(code), length }
}
