/**
 * `value` with `digits` digits behind the point as C's `%.*f` prints it: C rounds ties to even
 * (`3.125` is `3.12`), `toFixed` away from zero.
 *
 * @param value from 0 on, below 10^21
 * @param digits 0 to 20
 */
export function fixedText(value: number, digits: number): string {
  const rounded = value.toFixed(digits)
  // Below 2^53 the product of a tie is exact, so that most values need no second look.
  const doubled = value * 10 ** digits * 2
  if (doubled < 2 ** 53 && doubled % 2 !== 1) {
    return rounded
  }
  // A tie is a short binary fraction, so these digits are all it has.
  const [whole = '', fraction = ''] = value.toFixed(80).split('.')
  const isTie = /^50*$/.test(fraction.slice(digits))
  const kept = whole + fraction.slice(0, digits)
  if (!isTie || Number(kept.at(-1)) % 2 === 1) {
    return rounded
  }
  return digits === 0 ? whole : `${whole}.${fraction.slice(0, digits)}`
}
