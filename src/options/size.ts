/** Result of parsing a size: bytes, or why not. */
export type SizeParse = number | 'invalid' | 'too-large'

const suffixes: Record<string, number> = {
  b: 0, B: 0, k: 1, K: 1, m: 2, M: 2, g: 3, G: 3, t: 4, T: 4, p: 5, P: 5, e: 6, E: 6,
}

/**
 * Parses a size with an optional 1024-based suffix (`1.5G`, `64k`, `0x10000`) into bytes.
 * Fractions are allowed in decimal with a suffix larger than bytes. `'too-large'` means 2^64 or more;
 * values between 2^53 and 2^64 come back rounded and are refused later by the length checks.
 */
export function parseSize(text: string): SizeParse {
  const match = /^\s*(?:(0[xX][0-9a-fA-F]+)|(\d+)(\.\d*)?|(\.\d+))([bBkKmMgGtTpPeE])?$/.exec(text)
  if (match === null) {
    return 'invalid'
  }
  const [, hex, whole, fraction, bare, suffix] = match
  if (hex !== undefined && suffix !== undefined && !/[bBeE]/.test(suffix)) {
    return 'invalid'
  }
  const power = suffix === undefined ? 0 : (suffixes[suffix] ?? 0)
  const scale = 1024n ** BigInt(power)
  const integer = BigInt(hex ?? whole ?? '0') * scale
  let extra = 0
  const fractionText = fraction ?? bare
  if (fractionText !== undefined && fractionText !== '.') {
    const value = Number(`0${fractionText}`)
    if (value !== 0 && power === 0) {
      return 'invalid'
    }
    extra = Math.round(value * Number(scale))
  }
  const total = integer + BigInt(extra)
  return total >= 1n << 64n ? 'too-large' : Number(total)
}
