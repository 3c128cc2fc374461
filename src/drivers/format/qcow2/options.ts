import { defineOptions, type OptionDict } from '../../../options/index.js'

/** Options an open takes. Defaults that depend on the image or the platform are not given here. */
export const qcow2RuntimeOptions = defineOptions({
  'encrypt.format': {
    type: 'string',
    help: "Format of the encryption, 'aes' or 'luks', if it shall be checked",
  },
  'encrypt.key-secret': {
    type: 'string',
    help: 'ID of secret providing qcow2 AES key or LUKS passphrase',
  },
  'lazy-refcounts': { type: 'bool', help: 'Postpone refcount updates' },
  'pass-discard-request': { type: 'bool', help: 'Pass guest discard requests to the layer below' },
  'pass-discard-snapshot': {
    type: 'bool',
    help: 'Generate discard requests when snapshot related space is freed',
    default: true,
  },
  'pass-discard-other': {
    type: 'bool',
    help: 'Generate discard requests when other clusters are freed',
    default: false,
  },
  'discard-no-unref': {
    type: 'bool',
    help: 'Do not unreference discarded clusters',
    default: false,
  },
  'overlap-check': {
    type: 'string',
    help:
      'Selects which overlap checks to perform from a range of templates ' + '(none, constant, cached, all)',
  },
  'overlap-check.template': {
    type: 'string',
    help:
      'Selects which overlap checks to perform from a range of templates ' + '(none, constant, cached, all)',
  },
  'overlap-check.main-header': {
    type: 'bool',
    help: 'Check for unintended writes into the main qcow2 header',
  },
  'overlap-check.active-l1': {
    type: 'bool',
    help: 'Check for unintended writes into the active L1 table',
  },
  'overlap-check.active-l2': {
    type: 'bool',
    help: 'Check for unintended writes into an active L2 table',
  },
  'overlap-check.refcount-table': {
    type: 'bool',
    help: 'Check for unintended writes into the refcount table',
  },
  'overlap-check.refcount-block': {
    type: 'bool',
    help: 'Check for unintended writes into a refcount block',
  },
  'overlap-check.snapshot-table': {
    type: 'bool',
    help: 'Check for unintended writes into the snapshot table',
  },
  'overlap-check.inactive-l1': {
    type: 'bool',
    help: 'Check for unintended writes into an inactive L1 table',
  },
  'overlap-check.inactive-l2': {
    type: 'bool',
    help: 'Check for unintended writes into an inactive L2 table',
  },
  'overlap-check.bitmap-directory': {
    type: 'bool',
    help: 'Check for unintended writes into the bitmap directory',
  },
  'cache-size': {
    type: 'size',
    help: 'Maximum combined metadata (L2 tables and refcount blocks) cache size',
  },
  'l2-cache-size': { type: 'size', help: 'Maximum L2 table cache size' },
  'l2-cache-entry-size': { type: 'size', help: 'Size of each entry in the L2 cache' },
  'refcount-cache-size': { type: 'size', help: 'Maximum refcount block cache size' },
  'cache-clean-interval': {
    type: 'number',
    help: 'Clean unused cache entries after this time (in seconds)',
  },
})

/**
 * Adds old options to those of a reopen. A new overlap template replaces all old overlap options, a
 * new total cache size the old sizes of parts; new sizes of both parts replace an old total.
 */
export function joinRuntimeOptions(options: OptionDict, old: OptionDict): void {
  const left = old.clone()
  if (options.has('overlap-check') || options.has('overlap-check.template')) {
    left.delete('overlap-check')
    left.takeSubtree('overlap-check.')
  }
  const newTotal = options.has('cache-size')
  if (newTotal) {
    left.delete('l2-cache-size')
    left.delete('refcount-cache-size')
  }
  options.join(left, false)
  if (!newTotal && options.has('l2-cache-size') && options.has('refcount-cache-size')) {
    options.delete('cache-size')
  }
}

/** Words of the `preallocation` option. */
export const preallocationModes = ['off', 'metadata', 'falloc', 'full'] as const

/** Options of amend. */
export const qcow2AmendOptions = defineOptions({
  'encrypt.state': { type: 'string', help: 'Select new state of affected keyslots (active/inactive)' },
  'encrypt.keyslot': { type: 'number', help: 'Select a single keyslot to modify explicitly' },
  'encrypt.old-secret': { type: 'string', help: 'Select all keyslots that match this password' },
  'encrypt.new-secret': {
    type: 'string',
    help: 'New secret to set in the matching keyslots. Empty string to erase',
  },
  'encrypt.iter-time': { type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
  size: { type: 'size', help: 'Virtual disk size' },
  compat: { type: 'string', help: 'Compatibility level (v2 [0.10] or v3 [1.1])' },
  backing_file: { type: 'string', help: 'File name of a base image' },
  backing_fmt: { type: 'string', help: 'Image format of the base image' },
  data_file: { type: 'string', help: 'File name of an external data file' },
  data_file_raw: { type: 'bool', help: 'The external data file must stay valid as a raw image' },
  lazy_refcounts: { type: 'bool', help: 'Postpone refcount updates' },
  refcount_bits: { type: 'number', help: 'Width of a reference count entry in bits' },
})

/** Options of create, in the order in which QEMU prints them. */
export const qcow2CreateOptions = defineOptions({
  encryption: {
    type: 'bool',
    help: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
  },
  'encrypt.format': { type: 'string', help: "Encrypt the image, format choices: 'aes', 'luks'" },
  'encrypt.key-secret': {
    type: 'string',
    help: 'ID of secret providing qcow AES key or LUKS passphrase',
  },
  'encrypt.cipher-alg': { type: 'string', help: 'Name of encryption cipher algorithm' },
  'encrypt.cipher-mode': { type: 'string', help: 'Name of encryption cipher mode' },
  'encrypt.ivgen-alg': { type: 'string', help: 'Name of IV generator algorithm' },
  'encrypt.ivgen-hash-alg': { type: 'string', help: 'Name of IV generator hash algorithm' },
  'encrypt.hash-alg': { type: 'string', help: 'Name of encryption hash algorithm' },
  'encrypt.iter-time': { type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
  cluster_size: { type: 'size', help: 'qcow2 cluster size', default: 65536 },
  extended_l2: { type: 'bool', help: 'Extended L2 tables', default: false },
  preallocation: {
    type: 'enum',
    help: 'Preallocation mode (allowed values: off, metadata, falloc, full)',
    values: preallocationModes,
  },
  compression_type: {
    type: 'enum',
    help: 'Compression method used for image cluster compression',
    default: 'zlib',
    values: ['zlib', 'zstd'],
  },
  size: { type: 'size', help: 'Virtual disk size' },
  compat: { type: 'string', help: 'Compatibility level (v2 [0.10] or v3 [1.1])' },
  backing_file: { type: 'string', help: 'File name of a base image' },
  backing_fmt: { type: 'string', help: 'Image format of the base image' },
  data_file: { type: 'string', help: 'File name of an external data file' },
  data_file_raw: { type: 'bool', help: 'The external data file must stay valid as a raw image' },
  lazy_refcounts: { type: 'bool', help: 'Postpone refcount updates', default: false },
  refcount_bits: { type: 'number', help: 'Width of a reference count entry in bits', default: 16 },
})
