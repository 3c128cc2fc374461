import { blockError } from '../../../errors/index.js'
import type { BlockLimits } from '../../../io/index.js'
import type { OptionsOf } from '../../../options/index.js'
import type { blkdebugOptions } from './options.js'

/** The options that are limits. */
export const limitNames: readonly string[] = [
  'align',
  'max-transfer',
  'opt-write-zero',
  'max-write-zero',
  'opt-discard',
  'max-discard',
]

const maxInt = 0x7fffffff

/** Limits that the user asked for, bytes; 0: those of the image. */
export interface WantedLimits {
  readonly align: number
  readonly maxTransfer: number
  readonly optWriteZero: number
  readonly maxWriteZero: number
  readonly optDiscard: number
  readonly maxDiscard: number
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(Math.log2(value))
}

/**
 * Checks limits against each other and against the alignment of the image below.
 *
 * @throws BlockError EINVAL
 */
export function checkLimits(given: OptionsOf<typeof blkdebugOptions>, imageAlignment: number): WantedLimits {
  const align = given.align ?? 0
  if (align !== 0 && (align >= maxInt || !isPowerOfTwo(align))) {
    throw blockError('EINVAL', `Cannot meet constraints with align ${align}`)
  }
  const granule = Math.max(align, imageAlignment)
  const checked = (
    name: 'max-transfer' | 'opt-write-zero' | 'max-write-zero' | 'opt-discard' | 'max-discard',
    unit: number,
  ): number => {
    const value = given[name] ?? 0
    if (value !== 0 && (value >= maxInt || value % unit !== 0)) {
      throw blockError('EINVAL', `Cannot meet constraints with ${name} ${value}`)
    }
    return value
  }
  const maxTransfer = checked('max-transfer', granule)
  const optWriteZero = checked('opt-write-zero', granule)
  const maxWriteZero = checked('max-write-zero', Math.max(optWriteZero, granule))
  const optDiscard = checked('opt-discard', granule)
  const maxDiscard = checked('max-discard', Math.max(optDiscard, granule))
  return { align, maxTransfer, optWriteZero, maxWriteZero, optDiscard, maxDiscard }
}

/** Puts what was asked for into `limits`. */
export function applyLimits(wanted: WantedLimits, limits: BlockLimits): void {
  limits.requestAlignment = wanted.align || limits.requestAlignment
  limits.maxTransfer = wanted.maxTransfer || limits.maxTransfer
  limits.zeroAlignment = wanted.optWriteZero || limits.zeroAlignment
  limits.maxZero = wanted.maxWriteZero || limits.maxZero
  limits.discardAlignment = wanted.optDiscard || limits.discardAlignment
  limits.maxDiscard = wanted.maxDiscard || limits.maxDiscard
}
