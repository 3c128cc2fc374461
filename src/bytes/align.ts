/** The greatest multiple of `unit` that is not above `value`. Works beyond 2^32, unlike masks. */
export function alignDown(value: number, unit: number): number {
  return value - (value % unit)
}

/** The least multiple of `unit` that is not below `value`; the caller makes sure it stays a safe integer. */
export function alignUp(value: number, unit: number): number {
  const rest = value % unit
  return rest === 0 ? value : value - rest + unit
}

export function isAligned(value: number, unit: number): boolean {
  return value % unit === 0
}

/** Whether `value` is a power of two, from 1 on; also beyond 2^32. */
export function isPowerOfTwo(value: number): boolean {
  if (!Number.isSafeInteger(value) || value < 1) {
    return false
  }
  // Dividing by 2^32 is exact and keeps the one bit, if there is only one.
  const upper = Math.floor(value / 0x1_0000_0000)
  const lower = value % 0x1_0000_0000
  const one = upper === 0 ? lower : lower === 0 ? upper : 0
  return one !== 0 && (one & (one - 1)) === 0
}

/** The greatest power of two that is not above `value` (at least 1). */
export function powerOfTwoFloor(value: number): number {
  let power = 1
  while (power * 2 <= value) {
    power *= 2
  }
  return power
}
