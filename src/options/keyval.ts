import { blockError } from '../errors/index.js'
import type { JsonObject, JsonValue } from './json-parse.js'

/** Longest part of a key between dots, characters. */
const maxPart = 127

export interface KeyvalResult {
  readonly value: JsonObject
  /** A bare `help` or `?` was among the parameters. */
  readonly help: boolean
}

/**
 * Parses QEMU's newer option texts (`--object`): `key=value` with dotted keys for nested values,
 * commas in values doubled; other than in `-o`, a bare word is an error.
 *
 * @param implied name of the first parameter if it has no `=`
 * @throws BlockError EINVAL `Expected '=' after parameter '%s'`, `Invalid parameter '%s'`,
 *   `Parameters '%s.*' used inconsistently`, `Parameter '%s' missing`
 */
export function parseKeyval(text: string, implied?: string): KeyvalResult {
  const root: JsonObject = {}
  let help = false
  let first = implied
  for (let at = 0; at < text.length; ) {
    const stop = text.slice(at).search(/[=,]/)
    const end = stop < 0 ? text.length : at + stop
    let key = text.slice(at, end)
    if (text[end] === '=') {
      at = end + 1
    } else if (first !== undefined && key !== '' && key !== 'help' && key !== '?' && text[end + 1] !== ',') {
      key = first
    } else if (key === 'help' || key === '?') {
      help = true
      at = end + 1
      first = undefined
      continue
    } else if (first !== undefined) {
      throw invalid('')
    } else {
      checkKey(key)
      throw blockError('EINVAL', `Expected '=' after parameter '${key}'`)
    }
    first = undefined
    checkKey(key)
    const match = /^(?:[^,]|,,)*/.exec(text.slice(at))?.[0] ?? ''
    put(root, key, match.replaceAll(',,', ','))
    at += match.length + 1
  }
  return { value: listify(root, '') as JsonObject, help }
}

function invalid(key: string) {
  return blockError('EINVAL', `Invalid parameter '${key}'`)
}

function checkKey(key: string): void {
  const parts = key.split('.')
  for (const [index, part] of parts.entries()) {
    const isName = /^(?:__[a-zA-Z0-9.-]+_)?[a-zA-Z][a-zA-Z0-9_-]*$/.test(part)
    if (!isName && !(index > 0 && /^\d+$/.test(part))) {
      throw invalid(key)
    }
    if (part.length > maxPart) {
      throw blockError('EINVAL', `Parameter${parts.length > 1 ? ' fragment' : ''} '${part}' is too long`)
    }
  }
}

function put(root: JsonObject, key: string, value: string): void {
  const parts = key.split('.')
  let at = root
  for (const [index, part] of parts.entries()) {
    const known = Object.hasOwn(at, part) ? at[part] : undefined
    const isLast = index === parts.length - 1
    if (known !== undefined && (typeof known === 'object') === isLast) {
      throw blockError('EINVAL', `Parameters '${parts.slice(0, index + 1).join('.')}.*' used inconsistently`)
    }
    const next: JsonValue = isLast ? value : (known ?? {})
    Object.defineProperty(at, part, { value: next, enumerable: true, configurable: true, writable: true })
    at = next as JsonObject
  }
}

/** Turns objects whose keys are all numbers into lists. */
function listify(value: JsonValue, path: string): JsonValue {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return value
  }
  const keys = Object.keys(value)
  const numbers = keys.filter((key) => /^\d/.test(key))
  for (const key of keys) {
    value[key] = listify(value[key] as JsonValue, path === '' ? key : `${path}.${key}`)
  }
  if (numbers.length === 0) {
    return value
  }
  if (numbers.length < keys.length) {
    throw blockError('EINVAL', `Parameters '${path}.*' used inconsistently`)
  }
  return numbers.map((_, index) => {
    const member = value[String(index)]
    if (member === undefined) {
      throw blockError('EINVAL', `Parameter '${path}.${index}' missing`)
    }
    return member
  })
}
