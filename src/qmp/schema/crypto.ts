import { defineTypes } from './define.js'

/** Encryption: LUKS and the older methods. Names and members are QAPI's. */
export const cryptoTypes = defineTypes({
  QCryptoBlockOptionsQCow: { struct: { '*key-secret': 'str' } },
  QCryptoBlockOptionsLUKS: { struct: { '*key-secret': 'str' } },
  QCryptoCipherAlgorithm: {
    enum: [
      'aes-128',
      'aes-192',
      'aes-256',
      'des',
      '3des',
      'cast5-128',
      'serpent-128',
      'serpent-192',
      'serpent-256',
      'twofish-128',
      'twofish-192',
      'twofish-256',
    ],
  },
  QCryptoCipherMode: { enum: ['ecb', 'cbc', 'xts', 'ctr'] },
  QCryptoIVGenAlgorithm: { enum: ['plain', 'plain64', 'essiv'] },
  QCryptoHashAlgorithm: { enum: ['md5', 'sha1', 'sha224', 'sha256', 'sha384', 'sha512', 'ripemd160'] },
  QCryptoBlockCreateOptions: {
    union: { format: 'QCryptoBlockFormat' },
    tag: 'format',
    branches: { qcow: 'QCryptoBlockOptionsQCow', luks: 'QCryptoBlockCreateOptionsLUKS' },
  },
  QCryptoBlockLUKSKeyslotState: { enum: ['active', 'inactive'] },
  QCryptoBlockAmendOptions: {
    union: { format: 'QCryptoBlockFormat' },
    tag: 'format',
    branches: { luks: 'QCryptoBlockAmendOptionsLUKS' },
  },
  QCryptoBlockInfoLUKS: {
    struct: {
      'cipher-alg': 'QCryptoCipherAlgorithm',
      'cipher-mode': 'QCryptoCipherMode',
      'ivgen-alg': 'QCryptoIVGenAlgorithm',
      '*ivgen-hash-alg': 'QCryptoHashAlgorithm',
      'hash-alg': 'QCryptoHashAlgorithm',
      'payload-offset': 'int',
      'master-key-iters': 'int',
      uuid: 'str',
      slots: '[QCryptoBlockInfoLUKSSlot]',
    },
  },
  QCryptoBlockFormat: { enum: ['qcow', 'luks'] },
  QCryptoBlockCreateOptionsLUKS: {
    struct: {
      '*key-secret': 'str',
      '*cipher-alg': 'QCryptoCipherAlgorithm',
      '*cipher-mode': 'QCryptoCipherMode',
      '*ivgen-alg': 'QCryptoIVGenAlgorithm',
      '*ivgen-hash-alg': 'QCryptoHashAlgorithm',
      '*hash-alg': 'QCryptoHashAlgorithm',
      '*iter-time': 'int',
    },
  },
  QCryptoBlockAmendOptionsLUKS: {
    struct: {
      state: 'QCryptoBlockLUKSKeyslotState',
      '*new-secret': 'str',
      '*old-secret': 'str',
      '*keyslot': 'int',
      '*iter-time': 'int',
      '*secret': 'str',
    },
  },
  QCryptoBlockInfoLUKSSlot: {
    struct: { active: 'bool', '*iters': 'int', '*stripes': 'int', 'key-offset': 'int' },
  },
})
