/** Request flags; the bit numbers are QEMU's `BDRV_REQ_*`. */
export const ReqFlags = {
  copyOnRead: 0x1,
  zeroWrite: 0x2,
  /** The zeroed range may be deallocated. */
  mayUnmap: 0x4,
  /** The data must be durable when the request completes. */
  fua: 0x10,
  writeCompressed: 0x20,
  /** The write does not change what the guest sees (copy-on-read, stream). */
  writeUnchanged: 0x40,
  serialising: 0x80,
  /** Zeroes must be written efficiently or the request fails with ENOTSUP. */
  noFallback: 0x100,
} as const

/** How bytes of an extent relate to the child they are reported at. */
export const ExtentFlags = {
  none: 0,
  /** Plain data here, but the child may know parts of it to be zero (preallocated metadata). */
  recurse: 1,
  /** This layer has no opinion: status is whatever the child says (the raw format). */
  raw: 2,
  /** The bytes stand at this place, but enciphered: the driver's `decode` makes them guest data. */
  encoded: 4,
  /** There is data, but nowhere as such (a vote of several children). */
  nowhere: 8,
} as const
