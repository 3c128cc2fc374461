import { steps } from './matches.js'

/** Compresses as ADC does; both forms of matches occur. */
export function encodeAdc(data: Uint8Array): Uint8Array {
  const out: number[] = []
  for (const step of steps(data, { minLength: 4, maxLength: 67, maxLiterals: 128, maxDistance: 65536 })) {
    if (step.literals.length > 0) {
      out.push(0x7f + step.literals.length, ...step.literals)
    }
    const distance = step.distance - 1
    if (step.length > 0 && step.length <= 18 && distance < 1024) {
      out.push(((step.length - 3) << 2) | (distance >> 8), distance & 255)
    } else if (step.length > 0) {
      out.push(0x40 | (step.length - 4), distance >> 8, distance & 255)
    }
  }
  return Uint8Array.from(out)
}
