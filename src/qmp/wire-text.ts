import { jsonString, qdictOrder } from '../bytes/index.js'
import { generalText, JsonNumber } from './json-number.js'

/** What a scalar looks like. */
function scalar(value: unknown): string {
  if (typeof value === 'string') {
    return jsonString(value)
  }
  return typeof value === 'number' && !Number.isInteger(value) ? generalText(value) : integerText(value)
}

/** All digits of an integer: JavaScript's own text rounds beyond 2^53, and has an exponent from 10^21 on. */
function integerText(value: unknown): string {
  if (typeof value !== 'number' || Number.isSafeInteger(value)) {
    return String(value)
  }
  return Math.abs(value) >= 1e21 ? generalText(value) : BigInt(value).toString()
}

function membersOf(value: object): [string, unknown][] {
  const record = value as Readonly<Record<string, unknown>>
  return qdictOrder(Object.keys(record).filter((key) => record[key] !== undefined)).map((key) => [
    key,
    record[key],
  ])
}

/**
 * A value as the monitor sends it: members in the order of QEMU's dictionaries, `undefined` ones left out.
 *
 * @param pretty over several lines, with four blanks a level
 */
export function wireText(value: unknown, pretty = false): string {
  return pretty ? prettyText(value, '\n') : compactText(value)
}

function compactText(value: unknown): string {
  if (Array.isArray(value)) {
    return `[${value.map(compactText).join(', ')}]`
  }
  if (typeof value === 'object' && value !== null && !(value instanceof JsonNumber)) {
    return `{${membersOf(value)
      .map(([key, inner]) => `${jsonString(key)}: ${compactText(inner)}`)
      .join(', ')}}`
  }
  return scalar(value)
}

function prettyText(value: unknown, newline: string): string {
  const deeper = `${newline}    `
  const wrap = (open: string, inner: string[], close: string): string =>
    inner.length === 0
      ? `${open}${newline}${close}`
      : `${open}${inner.map((text) => `${deeper}${text}`).join(',')}${newline}${close}`
  if (Array.isArray(value)) {
    return wrap(
      '[',
      value.map((inner) => prettyText(inner, deeper)),
      ']',
    )
  }
  if (typeof value === 'object' && value !== null && !(value instanceof JsonNumber)) {
    return wrap(
      '{',
      membersOf(value).map(([key, inner]) => `${jsonString(key)}: ${prettyText(inner, deeper)}`),
      '}',
    )
  }
  return scalar(value)
}
