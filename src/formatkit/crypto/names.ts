import type { CipherFamily, HashName } from '../../host/index.js'

/** A QAPI `QCryptoCipherAlgorithm`. */
export interface CipherAlgorithm {
  readonly name: string
  readonly family: CipherFamily
  readonly keyBytes: number
  /** Bytes of a block, and of an initialisation vector. */
  readonly blockBytes: number
}

function algorithm(
  name: string,
  family: CipherFamily,
  keyBytes: number,
  blockBytes: number,
): CipherAlgorithm {
  return { name, family, keyBytes, blockBytes }
}

/** Every algorithm QEMU has a name for; a platform need not have them all. */
export const cipherAlgorithms: readonly CipherAlgorithm[] = [
  algorithm('aes-128', 'aes', 16, 16),
  algorithm('aes-192', 'aes', 24, 16),
  algorithm('aes-256', 'aes', 32, 16),
  algorithm('des', 'des', 8, 8),
  algorithm('3des', '3des', 24, 8),
  algorithm('cast5-128', 'cast5', 16, 8),
  algorithm('serpent-128', 'serpent', 16, 16),
  algorithm('serpent-192', 'serpent', 24, 16),
  algorithm('serpent-256', 'serpent', 32, 16),
  algorithm('twofish-128', 'twofish', 16, 16),
  algorithm('twofish-192', 'twofish', 24, 16),
  algorithm('twofish-256', 'twofish', 32, 16),
]

export const cipherModes = ['ecb', 'cbc', 'xts', 'ctr'] as const
export type CipherMode = (typeof cipherModes)[number]

export const ivGenerators = ['plain', 'plain64', 'essiv'] as const
export type IvGeneratorName = (typeof ivGenerators)[number]

/** Hashes, with the length of their result in bytes. */
export const hashBytes: Readonly<Record<HashName, number>> = {
  md5: 16,
  sha1: 20,
  sha224: 28,
  sha256: 32,
  sha384: 48,
  sha512: 64,
  ripemd160: 20,
}

export function isHashName(name: string): name is HashName {
  return Object.hasOwn(hashBytes, name)
}
