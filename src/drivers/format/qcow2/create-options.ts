import { blockError } from '../../../errors/index.js'
import type { Preallocation } from '../../../graph/index.js'
import { CompressionType, defaultClusterSize, maxClusterBits, minClusterBits } from './constants.js'
import { encryptCreateOptions, type Qcow2EncryptCreate } from './crypto-create.js'
import { preallocationModes } from './options.js'

/** Create options after typing by the schema. */
export type CreateValues = Readonly<Record<string, string | number | boolean>>

/** What to create. Sizes are bytes. */
export interface Qcow2CreateOptions {
  readonly version: 2 | 3
  /** Guest size, a multiple of 512. */
  readonly size: number
  readonly clusterSize: number
  /** log2 of the refcount width in bits. */
  readonly refcountOrder: number
  readonly lazyRefcounts: boolean
  readonly extendedL2: boolean
  readonly compressionType: number
  readonly preallocation: Preallocation
  readonly dataFile: string | undefined
  readonly dataFileRaw: boolean
  readonly backingFile: string | undefined
  readonly backingFormat: string | undefined
  readonly encrypt: Qcow2EncryptCreate | undefined
}

/** Names that QEMU's `BlockdevDriver` knows; a backing format may be any of them, supported here or not. */
const driverNames = new Set(
  (
    'blkdebug blklogwrites blkreplay blkverify bochs cloop compress copy-before-write copy-on-read dmg ' +
    'file snapshot-access ftp ftps gluster host_cdrom host_device http https io_uring iscsi luks nbd nfs ' +
    'null-aio null-co nvme nvme-io_uring parallels preallocate qcow qcow2 qed quorum raw rbd replication ' +
    'ssh throttle vdi vhdx virtio-blk-vfio-pci virtio-blk-vhost-user virtio-blk-vhost-vdpa vmdk vpc vvfat'
  ).split(' '),
)

function invalid(message: string) {
  return blockError('EINVAL', message)
}

function rejects(parameter: string, value: unknown) {
  return invalid(`Parameter '${parameter}' does not accept value '${value}'`)
}

function text(values: CreateValues, name: string): string | undefined {
  const value = values[name]
  return value === undefined ? undefined : String(value)
}

/** Whether `value` is a power of two; works beyond 32 bits. */
function isPowerOfTwo(value: number): boolean {
  return value >= 1 && Number.isInteger(Math.log2(value)) && 2 ** Math.log2(value) === value
}

/** Checks a cluster size in bytes as create and measure do. */
export function checkClusterSize(clusterSize: number, extendedL2: boolean): void {
  if (!isPowerOfTwo(clusterSize) || clusterSize < 2 ** minClusterBits || clusterSize > 2 ** maxClusterBits) {
    throw invalid(
      `Cluster size must be a power of two between ${2 ** minClusterBits} and ${2 ** (maxClusterBits - 10)}k`,
    )
  }
  if (extendedL2 && clusterSize < 2 ** minClusterBits * 32) {
    throw invalid(
      `Extended L2 entries are only supported with cluster sizes of at least ${2 ** minClusterBits * 32} bytes`,
    )
  }
}

/**
 * Checks a refcount width in bits and returns its log2.
 *
 * @param level how the advice spells the compatibility option
 */
export function refcountOrderOf(bits: number, version: number, level: 'version=v3' | 'compat=1.1'): number {
  if (bits > 64 || !isPowerOfTwo(bits)) {
    throw invalid('Refcount width must be a power of two and may not exceed 64 bits')
  }
  if (version < 3 && bits !== 16) {
    throw invalid(
      'Different refcount widths than 16 bits require compatibility level 1.1 or above ' +
        `(use ${level} or greater)`,
    )
  }
  return Math.log2(bits)
}

/** The `preallocation` word; absent means off. */
export function preallocationOf(values: CreateValues): Preallocation | undefined {
  const word = text(values, 'preallocation') ?? 'off'
  return preallocationModes.find((mode) => mode === word)
}

function versionOf(compat: string | undefined): 2 | 3 {
  switch (compat) {
    case '0.10':
    case 'v2':
      return 2
    case undefined:
    case '1.1':
    case 'v3':
      return 3
    default:
      throw rejects('version', compat)
  }
}

/** What QEMU checks while it converts the words of the options. */
function checkWords(values: CreateValues): void {
  const format = text(values, 'backing_fmt')
  if (format !== undefined && !driverNames.has(format)) {
    throw rejects('backing-fmt', format)
  }
  const compression = text(values, 'compression_type')
  if (compression !== undefined && compression !== 'zlib' && compression !== 'zstd') {
    throw rejects('compression-type', compression)
  }
  if (preallocationOf(values) === undefined) {
    throw rejects('preallocation', values.preallocation)
  }
}

/**
 * Checks the options of a create, in QEMU's order and with its texts.
 *
 * @throws EINVAL
 */
export function checkCreateOptions(values: CreateValues): Qcow2CreateOptions {
  const encrypt = encryptCreateOptions(values)
  checkWords(values)
  const version = versionOf(text(values, 'compat'))
  if (typeof values.size !== 'number') {
    throw invalid("Parameter 'size' is missing")
  }
  const clusterSize = Number(values.cluster_size ?? defaultClusterSize)
  const extendedL2 = values.extended_l2 === true
  if (extendedL2 && version < 3) {
    throw invalid(
      'Extended L2 entries are only supported with compatibility level 1.1 and above ' +
        '(use version=v3 or greater)',
    )
  }
  checkClusterSize(clusterSize, extendedL2)
  const preallocation = preallocationOf(values) ?? 'off'
  const backingFile = text(values, 'backing_file')
  const backingFormat = text(values, 'backing_fmt')
  if (backingFile !== undefined && preallocation !== 'off' && !extendedL2) {
    throw invalid('Backing file and preallocation can only be used at the same time if extended_l2 is on')
  }
  if (backingFormat !== undefined && backingFile === undefined) {
    throw invalid('Backing format cannot be used without backing file')
  }
  const lazyRefcounts = values.lazy_refcounts === true
  if (version < 3 && lazyRefcounts) {
    throw invalid(
      'Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)',
    )
  }
  const refcountOrder = refcountOrderOf(Number(values.refcount_bits ?? 16), version, 'version=v3')
  if (values.data_file_raw === true && values.data_file === undefined) {
    throw invalid('data-file-raw requires data-file')
  }
  const dataFileRaw = values.data_file_raw === true
  if (dataFileRaw && backingFile !== undefined) {
    throw invalid('Backing file and data-file-raw cannot be used at the same time')
  }
  const dataFile = text(values, 'data_file')
  if (dataFile !== undefined && version < 3) {
    throw invalid(
      'External data files are only supported with compatibility level 1.1 and above (use version=v3 or greater)',
    )
  }
  const zstd = text(values, 'compression_type') === 'zstd'
  if (version < 3 && zstd) {
    throw invalid(
      'Non-zlib compression type is only supported with compatibility level 1.1 and above ' +
        '(use version=v3 or greater)',
    )
  }
  return {
    version,
    size: Math.ceil(values.size / 512) * 512,
    clusterSize,
    refcountOrder,
    lazyRefcounts,
    extendedL2,
    compressionType: zstd ? CompressionType.zstd : CompressionType.zlib,
    // Whoever reads the raw file alone sees what the metadata says: all of it is there.
    preallocation: dataFileRaw && preallocation === 'off' ? 'metadata' : preallocation,
    dataFile,
    dataFileRaw,
    backingFile,
    backingFormat,
    encrypt,
  }
}
