/** Numbers of the qcow2 format (docs/interop/qcow2.txt) and QEMU's limits on them. */

/** `QFI\xfb`, big endian. */
export const qcow2Magic = 0x514649fb

/** Bytes of a version 2 header, of the shortest version 3 header, and of the one QEMU writes. */
export const headerLengthV2 = 72
export const headerLengthV3Min = 104
export const headerLengthV3 = 112

export const minClusterBits = 9
export const maxClusterBits = 21
export const defaultClusterSize = 65536

export const ExtensionMagic = {
  end: 0,
  backingFormat: 0xe2792aca,
  featureTable: 0x6803f857,
  cryptoHeader: 0x0537be77,
  bitmaps: 0x23852875,
  dataFile: 0x44415441,
} as const

/** Incompatible feature bits. */
export const Incompatible = {
  dirty: 1,
  corrupt: 2,
  dataFile: 4,
  compression: 8,
  extendedL2: 16,
  /** Every bit QEMU 7.2 knows. */
  known: 31,
} as const

/** Compatible feature bits. */
export const Compatible = {
  lazyRefcounts: 1,
} as const

/** Autoclear feature bits. */
export const Autoclear = {
  bitmaps: 1,
  dataFileRaw: 2,
  /** Every bit QEMU 7.2 knows. */
  known: 3,
} as const

export const CryptMethod = { none: 0, aes: 1, luks: 2 } as const

export const CompressionType = { zlib: 0, zstd: 1 } as const

/** Limits on tables, bytes unless said. */
export const maxL1Bytes = 0x2000000
export const maxRefcountTableBytes = 0x800000
/** Entries. */
export const maxSnapshots = 65536
export const maxSnapshotTableBytes = maxSnapshots * 1024
export const maxSnapshotExtraBytes = 1024
/** Bitmaps. */
export const maxBitmaps = 65535
export const maxBitmapDirectoryBytes = maxBitmaps * 1024
/** Bytes of a snapshot table entry without its variable part. */
export const snapshotHeaderBytes = 40

/** Entries of L1, L2 and refcount tables are 8 bytes. */
export const tableEntryBytes = 8
/** Bytes of an extended L2 entry: the plain one, then a bitmap. */
export const extendedEntryBytes = 16
/** Parts of a cluster that an extended L2 entry tells apart. */
export const subclustersPerCluster = 32

/** Largest length of a backing file name, bytes. */
export const maxBackingFileBytes = 1023

/**
 * Upper halves (bits 63..32) of L1 and L2 entry flags. Entries are handled as two 32-bit words, so
 * that no BigInt is needed.
 */
export const EntryHigh = {
  copied: 0x80000000,
  compressed: 0x40000000,
  /** Bits 55..32 of a host offset. */
  offset: 0x00ffffff,
} as const

/** Lower halves (bits 31..0). */
export const EntryLow = {
  /** The cluster reads as zeroes (version 3). */
  zero: 1,
  /** Bits 31..9 of a host offset. */
  offset: 0xfffffe00,
} as const
