/** Flags of an open that are not options. */
export interface OpenFlags {
  /** Open for writing (`BDRV_O_RDWR`). */
  write: boolean
  /** Writing may be requested later by a reopen (`BDRV_O_ALLOW_RDWR`). */
  allowWrite: boolean
  /** Only look at metadata: takes no read permission (`BDRV_O_NO_IO`). */
  noIo: boolean
  /** Do not open the backing chain. */
  noBacking: boolean
  /** The protocol level: no format probing (`BDRV_O_PROTOCOL`). */
  protocol: boolean
  /** Put a temporary overlay on top. */
  snapshot: boolean
  /** The file is deleted as soon as it is open. */
  temporary: boolean
  copyOnRead: boolean
  /** The open is for check: driver must be lenient with inconsistent metadata. */
  check: boolean
  /** Discards are passed on. */
  unmap: boolean
  /** Another process owns the image: nothing is written, no locks are taken (`BDRV_O_INACTIVE`). */
  inactive: boolean
  /** How files should reach the kernel unless their `aio` option says otherwise (`BDRV_O_NATIVE_AIO`, `BDRV_O_IO_URING`). */
  aio: 'threads' | 'native' | 'io_uring' | undefined
}

export const noFlags: Readonly<OpenFlags> = {
  write: false,
  allowWrite: false,
  noIo: false,
  noBacking: false,
  protocol: false,
  snapshot: false,
  temporary: false,
  copyOnRead: false,
  check: false,
  unmap: false,
  inactive: false,
  aio: undefined,
}

/** What a child is to its parent; a set of bits. */
export const Role = {
  data: 1,
  metadata: 2,
  filtered: 4,
  cow: 8,
  primary: 16,
  /** A format's ordinary `file` child. */
  image: 1 | 2 | 16,
} as const

/** Permissions on a node; a set of bits, QEMU's `BLK_PERM_*`. */
export const Perm = {
  consistentRead: 1,
  write: 2,
  writeUnchanged: 4,
  resize: 8,
  all: 15,
} as const

/** Names as they appear in lock and conflict messages. */
export const permNames: readonly (readonly [number, string])[] = [
  [Perm.consistentRead, 'consistent read'],
  [Perm.write, 'write'],
  [Perm.writeUnchanged, 'write unchanged'],
  [Perm.resize, 'resize'],
]
