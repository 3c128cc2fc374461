import { blockError } from '../errors/index.js'
import type { DetectZeroes } from '../io/index.js'

/** What a cache mode word stands for (seed row 42, today's split into node and backend). */
export interface CacheMode {
  /** `cache.direct` */
  readonly direct: boolean
  /** `cache.no-flush` */
  readonly noFlush: boolean
  /** Every write is flushed: a property of the backend. */
  readonly writeThrough: boolean
}

const cacheModes: Readonly<Record<string, CacheMode>> = {
  none: { direct: true, noFlush: false, writeThrough: false },
  off: { direct: true, noFlush: false, writeThrough: false },
  directsync: { direct: true, noFlush: false, writeThrough: true },
  writeback: { direct: false, noFlush: false, writeThrough: false },
  unsafe: { direct: false, noFlush: true, writeThrough: false },
  writethrough: { direct: false, noFlush: false, writeThrough: true },
}

/** The cache mode called `mode`, or undefined if there is none of that name. */
export function parseCacheMode(mode: string): CacheMode | undefined {
  return Object.hasOwn(cacheModes, mode) ? cacheModes[mode] : undefined
}

/** Whether discards are passed on; throws for an unknown word (seed row 41). */
export function parseDiscard(mode: string): boolean {
  if (mode === 'off' || mode === 'ignore') {
    return false
  }
  if (mode === 'on' || mode === 'unmap') {
    return true
  }
  throw blockError('EINVAL', 'Invalid discard option')
}

/** Types the `detect-zeroes` option. */
export function parseDetectZeroes(mode: string, unmap: boolean): DetectZeroes {
  if (mode !== 'off' && mode !== 'on' && mode !== 'unmap') {
    throw blockError('EINVAL', `Parameter 'detect-zeroes' does not accept value '${mode}'`)
  }
  if (mode === 'unmap' && !unmap) {
    throw blockError(
      'EINVAL',
      'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap',
    )
  }
  return mode
}
