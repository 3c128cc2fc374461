/** Result of parsing a size: bytes, or why not. */
export type SizeParse = number | 'invalid' | 'too-large'

/** As {@link SizeParse}, without rounding. */
export type ExactSizeParse = bigint | 'invalid' | 'too-large'

const suffixPowers: Readonly<Record<string, bigint>> = { b: 0n, k: 1n, m: 2n, g: 3n, t: 4n, p: 5n, e: 6n }

const limit = 1n << 64n

/** Hex digits run as far as they can, so `b`, `B`, `e` and `E` after them are digits. */
const hexSize = /^[\t\n\v\f\r ]*\+?0[xX]([0-9a-fA-F]+)([kKmMgGtTpP]?)(.*)$/s
/** A fraction's exponent is recognised, to be refused. */
const decimalSize = /^[\t\n\v\f\r ]*\+?(\d+)(?:\.(\d+(?:[eE][+-]?\d+)?)?)?([bBkKmMgGtTpPeE]?)(.*)$/s

/**
 * Parses a size by QEMU's rules: decimal or `0x…`, an optional 1024-based suffix (`64k`, `1.5G`), a
 * fraction only in decimal and with a suffix above bytes. `'too-large'` means 2^64 or more.
 */
export function parseSizeExact(text: string): ExactSizeParse {
  const hex = hexSize.exec(text)
  const [, digits = '', fraction = '', suffix = '', rest] =
    hex === null ? (decimalSize.exec(text) ?? []) : [hex[0], `0x${hex[1]}`, '', hex[2], hex[3]]
  if (rest !== '' || /[eE]/.test(fraction)) {
    return 'invalid'
  }
  const integer = BigInt(digits)
  if (integer >= limit) {
    // QEMU stops at the number then, and takes a suffix for garbage.
    return text.endsWith(digits.replace(/^0x/, '')) ? 'too-large' : 'invalid'
  }
  // 64 bits behind the point, from a double, as QEMU keeps it; a fraction that rounds to 1 is lost there.
  const fixed = BigInt(Math.trunc(Number(`0.${fraction}`) * 2 ** 64)) % limit
  return fixed !== 0n && /^[bB]?$/.test(suffix) ? 'invalid' : scaled(integer, fixed, suffix)
}

function scaled(integer: bigint, fixed: bigint, suffix: string): ExactSizeParse {
  const scale = 1024n ** (suffixPowers[suffix.toLowerCase()] ?? 0n)
  // Halves are rounded up.
  const total = integer * scale + (fixed * scale + (limit >> 1n)) / limit
  return total >= limit ? 'too-large' : total
}

/**
 * As {@link parseSizeExact}, as a number: values between 2^53 and 2^64 come back rounded and are
 * refused later by the length checks.
 */
export function parseSize(text: string): SizeParse {
  const size = parseSizeExact(text)
  return typeof size === 'bigint' ? Number(size) : size
}

/** QEMU's warning about a size that it reads but does not like, without `warning: `. */
export function sizeWarning(text: string): string | undefined {
  const hex = hexSize.exec(text)
  return hex === null || hex[2] === '' || BigInt(`0x${hex[1]}`) >= limit
    ? undefined
    : `Using a multiplier suffix on hex numbers is deprecated: ${text}`
}

/** Result of parsing an integer with C's rules for base 0. */
export type IntegerParse = bigint | 'invalid' | 'too-large'

/**
 * Parses an integer as `strtoull` with base 0 does: blanks in front, a sign, `0x…` and octal `0…`.
 * `'too-large'` means that it does not fit into 64 bits.
 */
export function parseInteger(text: string): IntegerParse {
  const match = /^[\t\n\v\f\r ]*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9]\d*)$/.exec(text)
  if (match === null) {
    return 'invalid'
  }
  const [, sign, digits = ''] = match
  const octal = digits.length > 1 && /^0\d/.test(digits)
  const value = BigInt(octal ? `0o${digits.slice(1)}` : digits)
  if (value >= limit) {
    return 'too-large'
  }
  return sign === '-' ? -value : value
}
