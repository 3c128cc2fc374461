import { defineTypes } from './define.js'

/** Creating and amending images. Names and members are QAPI's. */
export const createTypes = defineTypes({
  BlockdevCreateOptions: {
    union: { driver: 'BlockdevDriver' },
    tag: 'driver',
    branches: {
      file: 'BlockdevCreateOptionsFile',
      gluster: 'BlockdevCreateOptionsGluster',
      luks: 'BlockdevCreateOptionsLUKS',
      nfs: 'BlockdevCreateOptionsNfs',
      parallels: 'BlockdevCreateOptionsParallels',
      qcow: 'BlockdevCreateOptionsQcow',
      qcow2: 'BlockdevCreateOptionsQcow2',
      qed: 'BlockdevCreateOptionsQed',
      rbd: 'BlockdevCreateOptionsRbd',
      ssh: 'BlockdevCreateOptionsSsh',
      vdi: 'BlockdevCreateOptionsVdi',
      vhdx: 'BlockdevCreateOptionsVhdx',
      vmdk: 'BlockdevCreateOptionsVmdk',
      vpc: 'BlockdevCreateOptionsVpc',
    },
  },
  BlockdevAmendOptions: {
    union: { driver: 'BlockdevDriver' },
    tag: 'driver',
    branches: { luks: 'BlockdevAmendOptionsLUKS', qcow2: 'BlockdevAmendOptionsQcow2' },
  },
  BlockdevCreateOptionsFile: {
    struct: {
      filename: 'str',
      size: 'size',
      '*preallocation': 'PreallocMode',
      '*nocow': 'bool',
      '*extent-size-hint': 'int',
    },
  },
  BlockdevCreateOptionsGluster: {
    struct: { location: 'BlockdevOptionsGluster', size: 'size', '*preallocation': 'PreallocMode' },
  },
  BlockdevCreateOptionsLUKS: {
    struct: {
      '*key-secret': 'str',
      '*cipher-alg': 'QCryptoCipherAlgorithm',
      '*cipher-mode': 'QCryptoCipherMode',
      '*ivgen-alg': 'QCryptoIVGenAlgorithm',
      '*ivgen-hash-alg': 'QCryptoHashAlgorithm',
      '*hash-alg': 'QCryptoHashAlgorithm',
      '*iter-time': 'int',
      file: 'BlockdevRef',
      size: 'size',
      '*preallocation': 'PreallocMode',
    },
  },
  BlockdevCreateOptionsNfs: { struct: { location: 'BlockdevOptionsNfs', size: 'size' } },
  BlockdevCreateOptionsParallels: { struct: { file: 'BlockdevRef', size: 'size', '*cluster-size': 'size' } },
  BlockdevCreateOptionsQcow: {
    struct: {
      file: 'BlockdevRef',
      size: 'size',
      '*backing-file': 'str',
      '*encrypt': 'QCryptoBlockCreateOptions',
    },
  },
  BlockdevCreateOptionsQcow2: {
    struct: {
      file: 'BlockdevRef',
      '*data-file': 'BlockdevRef',
      '*data-file-raw': 'bool',
      '*extended-l2': 'bool',
      size: 'size',
      '*version': 'BlockdevQcow2Version',
      '*backing-file': 'str',
      '*backing-fmt': 'BlockdevDriver',
      '*encrypt': 'QCryptoBlockCreateOptions',
      '*cluster-size': 'size',
      '*preallocation': 'PreallocMode',
      '*lazy-refcounts': 'bool',
      '*refcount-bits': 'int',
      '*compression-type': 'Qcow2CompressionType',
    },
  },
  BlockdevCreateOptionsQed: {
    struct: {
      file: 'BlockdevRef',
      size: 'size',
      '*backing-file': 'str',
      '*backing-fmt': 'BlockdevDriver',
      '*cluster-size': 'size',
      '*table-size': 'int',
    },
  },
  BlockdevCreateOptionsRbd: {
    struct: {
      location: 'BlockdevOptionsRbd',
      size: 'size',
      '*cluster-size': 'size',
      '*encrypt': 'RbdEncryptionCreateOptions',
    },
  },
  BlockdevCreateOptionsSsh: { struct: { location: 'BlockdevOptionsSsh', size: 'size' } },
  BlockdevCreateOptionsVdi: {
    struct: { file: 'BlockdevRef', size: 'size', '*preallocation': 'PreallocMode' },
  },
  BlockdevCreateOptionsVhdx: {
    struct: {
      file: 'BlockdevRef',
      size: 'size',
      '*log-size': 'size',
      '*block-size': 'size',
      '*subformat': 'BlockdevVhdxSubformat',
      '*block-state-zero': 'bool',
    },
  },
  BlockdevCreateOptionsVmdk: {
    struct: {
      file: 'BlockdevRef',
      size: 'size',
      '*extents': '[BlockdevRef]',
      '*subformat': 'BlockdevVmdkSubformat',
      '*backing-file': 'str',
      '*adapter-type': 'BlockdevVmdkAdapterType',
      '*hwversion': 'str',
      '*toolsversion': 'str',
      '*zeroed-grain': 'bool',
    },
  },
  BlockdevCreateOptionsVpc: {
    struct: {
      file: 'BlockdevRef',
      size: 'size',
      '*subformat': 'BlockdevVpcSubformat',
      '*force-size': 'bool',
    },
  },
  BlockdevAmendOptionsLUKS: {
    struct: {
      state: 'QCryptoBlockLUKSKeyslotState',
      '*new-secret': 'str',
      '*old-secret': 'str',
      '*keyslot': 'int',
      '*iter-time': 'int',
      '*secret': 'str',
    },
  },
  BlockdevAmendOptionsQcow2: { struct: { '*encrypt': 'QCryptoBlockAmendOptions' } },
  PreallocMode: { enum: ['off', 'metadata', 'falloc', 'full'] },
  BlockdevQcow2Version: { enum: ['v2', 'v3'] },
  Qcow2CompressionType: { enum: ['zlib', 'zstd'] },
  RbdEncryptionCreateOptions: {
    union: { format: 'RbdImageEncryptionFormat' },
    tag: 'format',
    branches: { luks: 'RbdEncryptionCreateOptionsLUKS', luks2: 'RbdEncryptionCreateOptionsLUKS2' },
  },
  BlockdevVhdxSubformat: { enum: ['dynamic', 'fixed'] },
  BlockdevVmdkSubformat: {
    enum: [
      'monolithicSparse',
      'monolithicFlat',
      'twoGbMaxExtentSparse',
      'twoGbMaxExtentFlat',
      'streamOptimized',
    ],
  },
  BlockdevVmdkAdapterType: { enum: ['ide', 'buslogic', 'lsilogic', 'legacyESX'] },
  BlockdevVpcSubformat: { enum: ['dynamic', 'fixed'] },
  RbdEncryptionCreateOptionsLUKS: {
    struct: { 'key-secret': 'str', '*cipher-alg': 'QCryptoCipherAlgorithm' },
  },
  RbdEncryptionCreateOptionsLUKS2: {
    struct: { 'key-secret': 'str', '*cipher-alg': 'QCryptoCipherAlgorithm' },
  },
})
