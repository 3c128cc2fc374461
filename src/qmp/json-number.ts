import type { JsonValue } from '../options/index.js'

/**
 * A number that a JavaScript number cannot stand for: one with a fraction or exponent, which is no integer
 * even if it is whole, or an integer beyond 2^53.
 */
export class JsonNumber {
  /** As it stood in the input. */
  readonly text: string
  readonly isInteger: boolean

  constructor(text: string) {
    this.text = text
    this.isInteger = /^-?\d+$/.test(text)
  }

  /** The nearest number. */
  valueOf(): number {
    return Number(this.text)
  }

  /** As QEMU prints it: integers of 64 bits as they are, others with 17 significant digits. */
  toString(): string {
    if (this.isInteger) {
      const value = BigInt(this.text)
      if (value >= -(1n << 63n) && value < 1n << 64n) {
        return value.toString()
      }
    }
    return generalText(Number(this.text))
  }
}

/** A JSON value that came over the wire; numbers may be {@link JsonNumber}. */
export type WireValue = null | boolean | number | string | JsonNumber | WireValue[] | WireObject

export interface WireObject {
  [key: string]: WireValue
}

export function isWireObject(value: WireValue | undefined): value is WireObject {
  return (
    typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof JsonNumber)
  )
}

/** A number with 17 significant digits as C's `%.17g` writes it. */
export function generalText(value: number): string {
  if (!Number.isFinite(value)) {
    return Number.isNaN(value) ? 'nan' : value > 0 ? 'inf' : '-inf'
  }
  if (value === 0) {
    return Object.is(value, -0) ? '-0' : '0'
  }
  const [mantissa = '', exponentText = '0'] = value.toExponential(16).split('e')
  const exponent = Number(exponentText)
  const trim = (text: string): string => (text.includes('.') ? text.replace(/\.?0+$/, '') : text)
  if (exponent < -4 || exponent >= 17) {
    const sign = exponent < 0 ? '-' : '+'
    return `${trim(mantissa)}e${sign}${String(Math.abs(exponent)).padStart(2, '0')}`
  }
  const negative = value < 0 ? '-' : ''
  const digits = mantissa.replace(/^-/, '').replace('.', '')
  if (exponent < 0) {
    return `${negative}${trim(`0.${'0'.repeat(-exponent - 1)}${digits}`)}`
  }
  return `${negative}${trim(`${digits.slice(0, exponent + 1)}.${digits.slice(exponent + 1)}`)}`
}

/** The value without {@link JsonNumber}: rounded where need be. */
export function plainValue(value: WireValue): JsonValue {
  if (value instanceof JsonNumber) {
    return Number(value.text)
  }
  if (Array.isArray(value)) {
    return value.map(plainValue)
  }
  if (isWireObject(value)) {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plainValue(inner)]))
  }
  return value
}
