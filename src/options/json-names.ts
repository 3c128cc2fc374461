import { jsonString, qdictOrder } from '../bytes/index.js'
import { blockError, prefixed } from '../errors/index.js'
import { OptionDict, type OptionTree, type OptionValue } from './dict.js'
import { type JsonValue, parseJson } from './json-parse.js'

/** Options as a tree again: dotted keys become nested objects, runs of `0`, `1`, … become lists. */
export function unflatten(dict: OptionDict): OptionTree {
  const root: Record<string, unknown> = {}
  for (const [key, value] of dict.entries()) {
    const path = key.split('.')
    let at = root
    // Option names may contain dots themselves (cache.direct); only children nest.
    for (const part of path.slice(0, -1)) {
      const next = at[part]
      if (typeof next === 'object' && next !== null) {
        at = next as Record<string, unknown>
      } else {
        const made: Record<string, unknown> = {}
        at[part] = made
        at = made
      }
    }
    at[path.at(-1) ?? key] = value
  }
  return listify(root) as OptionTree
}

function listify(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) {
    return value as OptionValue
  }
  const entries = Object.entries(value).map(([key, inner]) => [key, listify(inner)] as const)
  if (entries.length > 0 && entries.every(([key], index) => key === String(index))) {
    return entries.map(([, inner]) => inner)
  }
  return Object.fromEntries(entries)
}

/** JSON on one line as it stands in `json:` names: keys in the order of QEMU's dictionaries. */
export function compactJson(value: unknown): string {
  if (Array.isArray(value)) {
    return `[${value.map(compactJson).join(', ')}]`
  }
  if (typeof value === 'object' && value !== null) {
    const members = qdictOrder(Object.keys(value)).map(
      (key) => `${jsonString(key)}: ${compactJson((value as Record<string, unknown>)[key])}`,
    )
    return `{${members.join(', ')}}`
  }
  return typeof value === 'string' ? jsonString(value) : String(value)
}

/**
 * The options of a `json:{…}` name (seed row 29).
 *
 * @throws BlockError EINVAL `Could not parse the JSON options: …`, `Invalid JSON object given`
 */
export function parseJsonFilename(filename: string): OptionDict {
  let value: JsonValue
  try {
    value = parseJson(filename.slice('json:'.length))
  } catch (error) {
    throw prefixed(error, 'Could not parse the JSON options: ')
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw blockError('EINVAL', 'Invalid JSON object given')
  }
  return OptionDict.fromTree(value as OptionTree)
}
