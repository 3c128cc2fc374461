import {
  type BlockError,
  type ErrnoName,
  errnoName,
  ioError,
  isBlockError,
  isErrnoName,
} from '../../errors/index.js'

const aliases: Readonly<Record<string, ErrnoName>> = {
  EOPNOTSUPP: 'ENOTSUP',
  EWOULDBLOCK: 'EAGAIN',
}

/** Turns what Node throws into a BlockError with the bare errno text; callers add context. */
export function fromNode(error: unknown): BlockError {
  if (isBlockError(error)) {
    return error
  }
  const code = (error as { code?: unknown } | null)?.code
  if (typeof code === 'string') {
    const name = aliases[code] ?? code
    if (isErrnoName(name)) {
      return ioError(name)
    }
  }
  if (code === 'ERR_INVALID_ARG_VALUE') {
    // A path with a zero byte.
    return ioError('ENOENT')
  }
  return ioError('EIO')
}

/** A positive errno as a BlockError. */
export function fromErrno(number: number): BlockError {
  return ioError(errnoName(number))
}

/** Whether a positive errno means "not on this file, file system or device". */
export function isUnsupported(number: number): boolean {
  // EOPNOTSUPP, ENOSYS, ENODEV, ENOTTY
  return number === 95 || number === 38 || number === 19 || number === 25
}
