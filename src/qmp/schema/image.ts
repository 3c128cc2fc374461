import { defineTypes } from './define.js'

/** Descriptions of images. Names and members are QAPI's. */
export const imageTypes = defineTypes({
  SnapshotInfo: {
    struct: {
      id: 'str',
      name: 'str',
      'vm-state-size': 'int',
      'date-sec': 'int',
      'date-nsec': 'int',
      'vm-clock-sec': 'int',
      'vm-clock-nsec': 'int',
      '*icount': 'int',
    },
  },
  ImageInfo: {
    struct: {
      filename: 'str',
      format: 'str',
      '*dirty-flag': 'bool',
      '*actual-size': 'int',
      'virtual-size': 'int',
      '*cluster-size': 'size',
      '*encrypted': 'bool',
      '*compressed': 'bool',
      '*backing-filename': 'str',
      '*full-backing-filename': 'str',
      '*backing-filename-format': 'str',
      '*snapshots': '[SnapshotInfo]',
      '*backing-image': 'ImageInfo',
      '*format-specific': 'ImageInfoSpecific',
    },
  },
  ImageInfoSpecific: {
    union: { type: 'ImageInfoSpecificKind' },
    tag: 'type',
    branches: {
      qcow2: 'ImageInfoSpecificQCow2Wrapper',
      vmdk: 'ImageInfoSpecificVmdkWrapper',
      luks: 'ImageInfoSpecificLUKSWrapper',
      rbd: 'ImageInfoSpecificRbdWrapper',
    },
  },
  ImageInfoSpecificKind: { enum: ['qcow2', 'vmdk', 'luks', 'rbd'] },
  ImageInfoSpecificQCow2Wrapper: { struct: { data: 'ImageInfoSpecificQCow2' } },
  ImageInfoSpecificVmdkWrapper: { struct: { data: 'ImageInfoSpecificVmdk' } },
  ImageInfoSpecificLUKSWrapper: { struct: { data: 'QCryptoBlockInfoLUKS' } },
  ImageInfoSpecificRbdWrapper: { struct: { data: 'ImageInfoSpecificRbd' } },
  ImageInfoSpecificQCow2: {
    struct: {
      compat: 'str',
      '*data-file': 'str',
      '*data-file-raw': 'bool',
      '*extended-l2': 'bool',
      '*lazy-refcounts': 'bool',
      '*corrupt': 'bool',
      'refcount-bits': 'int',
      '*encrypt': 'ImageInfoSpecificQCow2Encryption',
      '*bitmaps': '[Qcow2BitmapInfo]',
      'compression-type': 'Qcow2CompressionType',
    },
  },
  ImageInfoSpecificVmdk: {
    struct: { 'create-type': 'str', cid: 'int', 'parent-cid': 'int', extents: '[ImageInfo]' },
  },
  ImageInfoSpecificRbd: { struct: { '*encryption-format': 'RbdImageEncryptionFormat' } },
  ImageInfoSpecificQCow2Encryption: {
    union: { format: 'BlockdevQcow2EncryptionFormat' },
    tag: 'format',
    branches: { luks: 'QCryptoBlockInfoLUKS' },
  },
  Qcow2BitmapInfo: { struct: { name: 'str', granularity: 'int', flags: '[Qcow2BitmapInfoFlags]' } },
  Qcow2BitmapInfoFlags: { enum: ['in-use', 'auto'] },
})
