/** Largest single request in bytes: 2^31 rounded down to a whole sector, as QEMU limits it. */
export const maxRequestBytes = 0x7fffffff - 511

/** Largest node length in bytes: offsets are safe integers (2^53 - 1), kept whole sectors. */
export const maxLength = Number.MAX_SAFE_INTEGER - 511

/** What a node's driver can take in one request. All values in bytes; 0 means "no limit". */
export interface BlockLimits {
  /** Offsets and sizes of requests to the driver are multiples of this; a power of two. */
  requestAlignment: number
  maxTransfer: number
  optTransfer: number
  /** Preferred alignment of zero-writes; unaligned heads and tails are sent separately. */
  zeroAlignment: number
  maxZero: number
  discardAlignment: number
  maxDiscard: number
  /** Memory alignment the driver needs at least, and works best with (seed L114-132). */
  minMemAlignment: number
  optMemAlignment: number
}

export function defaultLimits(pageSize = 4096): BlockLimits {
  return {
    requestAlignment: 1,
    maxTransfer: 0,
    optTransfer: 0,
    zeroAlignment: 1,
    maxZero: 0,
    discardAlignment: 1,
    maxDiscard: 0,
    minMemAlignment: 512,
    optMemAlignment: Math.max(4096, pageSize),
  }
}

function minNonZero(a: number, b: number): number {
  return a === 0 ? b : b === 0 ? a : Math.min(a, b)
}

/** Tightens `into` by what a child can take; zero and discard limits stay the driver's own affair. */
export function mergeLimits(into: BlockLimits, child: BlockLimits): void {
  into.optTransfer = Math.max(into.optTransfer, child.optTransfer)
  into.maxTransfer = minNonZero(into.maxTransfer, child.maxTransfer)
  into.optMemAlignment = Math.max(into.optMemAlignment, child.optMemAlignment)
  into.minMemAlignment = Math.max(into.minMemAlignment, child.minMemAlignment)
}
