const prefixes = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'] as const

/** `value` rounded to three significant digits; C rounds ties to even, JavaScript up. */
function roundToEven(value: number): string {
  const [digits = '', exponent = ''] = value.toExponential(40).split('e')
  const isTie = /^\d\.\d\d50*$/.test(digits)
  return isTie && Number(digits[3]) % 2 === 0 ? `${digits.slice(0, 4)}e${exponent}` : value.toPrecision(3)
}

/** `value` with three significant digits and no trailing zeroes, as C's `%0.3g` prints it. */
function threeDigits(value: number): string {
  const rounded = Number(roundToEven(value))
  if (rounded >= 1000) {
    const [mantissa, exponent] = rounded.toExponential(2).split('e+') as [string, string]
    return `${Number(mantissa)}e+${exponent.padStart(2, '0')}`
  }
  return String(rounded)
}

/**
 * A size as QEMU prints it for people: `64 MiB`, `1.5 GiB`, `196 KiB`, `0 B`.
 *
 * The next larger unit is taken from 1000 on, not from 1024, so that three digits always do.
 * @param bytes from 0 on
 */
export function sizeText(bytes: number): string {
  let unit = 1
  let index = 0
  while (index < prefixes.length - 1 && bytes >= unit * 1000) {
    unit *= 1024
    index++
  }
  return `${threeDigits(bytes / unit)} ${prefixes[index]}B`
}
