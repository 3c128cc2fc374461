import { type ErrnoName, errnoName } from '../errors/index.js'

/** Error numbers of the protocol: the few that every system has. */
const numbers: Partial<Record<ErrnoName, number>> = {
  EPERM: 1,
  EROFS: 1,
  EIO: 5,
  ENOMEM: 12,
  EFBIG: 28,
  ENOSPC: 28,
  EDQUOT: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
}

const known = new Set([1, 5, 12, 22, 28, 75, 95, 108])

/** The error number that is sent for `code`: what the protocol does not know becomes EINVAL. */
export function wireError(code: ErrnoName): number {
  return numbers[code] ?? 22
}

/** The errno of an error number that was received, which is not 0. */
export function errnoOfWire(number: number): ErrnoName {
  return known.has(number) ? errnoName(number) : 'EINVAL'
}
