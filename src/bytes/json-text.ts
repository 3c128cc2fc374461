/**
 * JSON text as QEMU writes it. Objects keep the order of their keys: use `qdictOrder` first where
 * QEMU prints a dictionary. Members that are `undefined` are left out.
 */

const shortEscapes: Readonly<Record<string, string>> = {
  '"': '\\"',
  '\\': '\\\\',
  '\b': '\\b',
  '\f': '\\f',
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
}

/** A JSON string: everything outside printable ASCII is escaped, with upper-case digits. */
export function jsonString(text: string): string {
  let result = '"'
  // By UTF-16 units: a character beyond the first plane becomes the pair of escapes that QEMU writes.
  for (let i = 0; i < text.length; i++) {
    const char = text[i] as string
    const code = text.charCodeAt(i)
    const short = shortEscapes[char]
    if (short !== undefined) {
      result += short
    } else if (code >= 0x20 && code < 0x7f) {
      result += char
    } else {
      result += `\\u${code.toString(16).toUpperCase().padStart(4, '0')}`
    }
  }
  return `${result}"`
}

function scalar(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return jsonString(value)
    case 'number':
    case 'boolean':
    case 'bigint':
      return String(value)
    default:
      if (value === null) {
        return 'null'
      }
      throw new TypeError(`not a JSON value: ${typeof value}`)
  }
}

function members(value: object): [string, unknown][] {
  return Object.entries(value).filter(([, inner]) => inner !== undefined)
}

/** JSON on one line with a blank after commas and colons, as in `json:{…}` names. */
export function jsonCompact(value: unknown): string {
  if (Array.isArray(value)) {
    return `[${value.map(jsonCompact).join(', ')}]`
  }
  if (typeof value === 'object' && value !== null) {
    const inner = members(value).map(([key, member]) => `${jsonString(key)}: ${jsonCompact(member)}`)
    return `{${inner.join(', ')}}`
  }
  return scalar(value)
}

/** JSON with one member a line and four blanks per level; even an empty container takes two lines. */
export function jsonPretty(value: unknown): string {
  return pretty(value, '')
}

function pretty(value: unknown, indent: string): string {
  const deeper = `${indent}    `
  if (Array.isArray(value)) {
    return container(
      '[',
      ']',
      indent,
      value.map((member) => deeper + pretty(member, deeper)),
    )
  }
  if (typeof value === 'object' && value !== null) {
    const lines = members(value).map(
      ([key, member]) => `${deeper}${jsonString(key)}: ${pretty(member, deeper)}`,
    )
    return container('{', '}', indent, lines)
  }
  return scalar(value)
}

function container(open: string, close: string, indent: string, lines: readonly string[]): string {
  return lines.length === 0
    ? `${open}\n${indent}${close}`
    : `${open}\n${lines.join(',\n')}\n${indent}${close}`
}
