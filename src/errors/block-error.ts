import { type ErrnoName, errnoNumber, strerror } from './errno.js'

const brand: unique symbol = Symbol.for('blockgraph.BlockError') as never

/** Where an error happened. Diagnostics only: never part of the message. */
export interface ErrorPlace {
  readonly node?: string
  readonly operation?: string
  /** Byte offset on `node`. */
  readonly offset?: number
  readonly bytes?: number
}

/** QAPI's error classes. */
export type ErrorClass =
  | 'GenericError'
  | 'CommandNotFound'
  | 'DeviceEncrypted'
  | 'DeviceNotActive'
  | 'DeviceNotFound'
  | 'KVMMissingCap'

export interface BlockErrorOptions {
  readonly errorClass?: ErrorClass | undefined
  readonly hint?: string | undefined
  readonly at?: ErrorPlace | undefined
  readonly cause?: unknown
}

/**
 * An error of the block layer. `message` is QEMU's text, `code` the errno that QEMU would return.
 *
 * Recognise it with {@link isBlockError}, which also works across two copies of the package.
 */
export class BlockError extends Error {
  readonly code: ErrnoName
  /** Extra advice QEMU prints on its own line(s) after the message, without trailing newline. */
  readonly hint: string | undefined
  readonly at: ErrorPlace | undefined
  /** Class that QMP reports. */
  readonly errorClass: ErrorClass
  readonly [brand] = true

  constructor(code: ErrnoName, message: string, options: BlockErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'BlockError'
    this.code = code
    this.hint = options.hint
    this.at = options.at
    this.errorClass = options.errorClass ?? 'GenericError'
  }

  /** Negative Linux errno, as on the NBD wire and in QEMU's return values. */
  get errno(): number {
    return -errnoNumber(this.code)
  }

  /** Name of the node that reported the error, if known. */
  get node(): string | undefined {
    return this.at?.node
  }
}

export function isBlockError(value: unknown): value is BlockError {
  return value instanceof Error && (value as { [brand]?: unknown })[brand] === true
}

/** An error with exactly this text. */
export function blockError(code: ErrnoName, message: string, options?: BlockErrorOptions): BlockError {
  return new BlockError(code, message, options)
}

/** An error whose text ends in `: ` and the errno's wording. */
export function errnoError(code: ErrnoName, message: string, options?: BlockErrorOptions): BlockError {
  return new BlockError(code, `${message}: ${strerror(code)}`, options)
}

/** The bare errno as an error, for data-path failures that have no text of their own. */
export function ioError(code: ErrnoName, at?: ErrorPlace): BlockError {
  return new BlockError(code, strerror(code), { at })
}

/**
 * Puts `text` before an error's message; code and hint stay.
 * Anything that is not a BlockError is a programming error and is returned unchanged.
 */
export function prefixed(error: unknown, text: string): unknown {
  if (!isBlockError(error)) {
    return error
  }
  return new BlockError(error.code, text + error.message, {
    errorClass: error.errorClass,
    hint: error.hint,
    at: error.at,
    cause: error,
  })
}

/** The errno of any thrown value; foreign errors count as `EIO`. */
export function codeOf(error: unknown): ErrnoName {
  return isBlockError(error) ? error.code : 'EIO'
}
