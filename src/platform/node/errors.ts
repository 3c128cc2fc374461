import {
  type BlockError,
  blockError,
  type ErrnoName,
  errnoName,
  ioError,
  isBlockError,
  isErrnoName,
  strerror,
} from '../../errors/index.js'

const aliases: Readonly<Record<string, ErrnoName>> = {
  EOPNOTSUPP: 'ENOTSUP',
  ENOTTY: 'ENOTSUP',
  EWOULDBLOCK: 'EAGAIN',
}

/** Positive Linux errnos that this folder decides by. */
export const Errno = {
  EINTR: 4,
  ENXIO: 6,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EXDEV: 18,
  ENODEV: 19,
  EINVAL: 22,
  ENOTTY: 25,
  ETXTBSY: 26,
  EPIPE: 32,
  ENOSYS: 38,
  ETIME: 62,
  EOPNOTSUPP: 95,
} as const

/**
 * Turns a system error that Node threw into a BlockError with the bare errno text; callers add
 * context. Whatever is not a system error is a mistake of the program and is thrown on unchanged.
 */
export function fromNode(error: unknown): BlockError {
  if (isBlockError(error)) {
    return error
  }
  const { code, syscall } = (error ?? {}) as { code?: unknown; syscall?: unknown }
  if (typeof code === 'string' && typeof syscall === 'string') {
    const name = aliases[code] ?? code
    const known = isErrnoName(name) ? name : 'EIO'
    return blockError(known, strerror(known), { cause: error })
  }
  if (code === 'ERR_INVALID_ARG_VALUE' && error instanceof Error && error.message.includes('null bytes')) {
    // No file can have such a name.
    return blockError('ENOENT', strerror('ENOENT'), { cause: error })
  }
  throw error
}

/** A positive errno as a BlockError with the bare errno text. */
export function fromErrno(number: number): BlockError {
  return ioError(number === Errno.ENOTTY ? 'ENOTSUP' : errnoName(number))
}

/** Whether a positive errno means "not on this kernel, file system or device". */
export function isUnsupported(number: number): boolean {
  return (
    number === Errno.EOPNOTSUPP ||
    number === Errno.ENOSYS ||
    number === Errno.ENODEV ||
    number === Errno.ENOTTY
  )
}

/** Whether Node reports that a signal interrupted the call, which then is to be repeated. */
export function isInterrupted(error: unknown): boolean {
  return (error as { code?: unknown } | null)?.code === 'EINTR'
}
