import { blockError } from '../../errors/index.js'
import type { BlockCipher, HashName, HostCiphers } from '../../host/index.js'
import { Essiv, type IvGenerator, plain, plain64 } from './iv-generator.js'
import {
  type CipherAlgorithm,
  type CipherMode,
  cipherAlgorithms,
  hashBytes,
  type IvGeneratorName,
} from './names.js'
import { type SectorCipher, sectorCipher } from './sector-cipher.js'

/** How sectors are enciphered, but for the key. */
export interface CipherSpec {
  readonly cipher: CipherAlgorithm
  readonly mode: CipherMode
  readonly ivgen: IvGeneratorName
  /** Needed for `essiv`; otherwise only kept. */
  readonly ivHash: HashName | undefined
}

/** Bytes of a key: XTS takes two. */
export function keyBytesOf(spec: CipherSpec): number {
  return spec.mode === 'xts' ? spec.cipher.keyBytes * 2 : spec.cipher.keyBytes
}

function blockCipher(
  ciphers: HostCiphers | undefined,
  algorithm: CipherAlgorithm,
  key: Uint8Array,
): BlockCipher {
  const cipher = ciphers?.blockCipher(algorithm.family, key)
  if (cipher === undefined) {
    throw blockError('ENOTSUP', `Algorithm '${algorithm.name}' not supported`)
  }
  return cipher
}

/**
 * The cipher that `essiv` enciphers sector numbers with: of the same family, with keys as long as the hash.
 *
 * @throws ENOTSUP with QEMU's text
 */
export function essivCipher(algorithm: CipherAlgorithm, hash: HashName): CipherAlgorithm {
  const names: Readonly<Record<string, string>> = { aes: 'AES', serpent: 'Serpent', twofish: 'Twofish' }
  const family = names[algorithm.family]
  if (family === undefined) {
    throw blockError('ENOTSUP', `Cipher ${algorithm.name} not supported with essiv`)
  }
  const bytes = hashBytes[hash]
  const found = cipherAlgorithms.find((one) => one.family === algorithm.family && one.keyBytes === bytes)
  if (found === undefined) {
    throw blockError('ENOTSUP', `No ${family} cipher with key size ${bytes} available`)
  }
  return found
}

/**
 * The cipher for sectors under `key`, which is copied.
 *
 * @throws ENOTSUP if the platform lacks it; EINVAL for combinations that there are not
 */
export function makeSectorCipher(
  ciphers: HostCiphers | undefined,
  spec: CipherSpec,
  key: Uint8Array,
): SectorCipher {
  const { cipher: algorithm, mode } = spec
  if (mode === 'xts' && key.length % 2 !== 0) {
    throw blockError('EINVAL', 'XTS cipher key length should be a multiple of 2')
  }
  if (key.length !== keyBytesOf(spec)) {
    throw blockError('EINVAL', `Cipher key length ${key.length} should be ${keyBytesOf(spec)}`)
  }
  if (mode === 'xts' && algorithm.blockBytes !== 16) {
    throw blockError('ENOTSUP', 'Unsupported cipher mode xts')
  }
  const owned: { dispose(): void }[] = []
  try {
    const ivgen = makeIvGenerator(ciphers, spec, key)
    owned.push(ivgen)
    const cipher = blockCipher(ciphers, algorithm, key.subarray(0, algorithm.keyBytes))
    owned.push(cipher)
    const tweak =
      mode === 'xts' ? blockCipher(ciphers, algorithm, key.subarray(algorithm.keyBytes)) : undefined
    return sectorCipher(mode, cipher, tweak, ivgen)
  } catch (error) {
    for (const part of owned) {
      part.dispose()
    }
    throw error
  }
}

function makeIvGenerator(ciphers: HostCiphers | undefined, spec: CipherSpec, key: Uint8Array): IvGenerator {
  if (spec.ivgen === 'plain') {
    return plain
  }
  if (spec.ivgen === 'plain64') {
    return plain64
  }
  if (spec.ivHash === undefined) {
    throw blockError('EINVAL', 'Missing IV generator hash specification')
  }
  const algorithm = essivCipher(spec.cipher, spec.ivHash)
  if (ciphers?.hasHash(spec.ivHash) !== true) {
    throw blockError('ENOTSUP', `Unknown hash algorithm ${spec.ivHash}`)
  }
  const salt = ciphers.digest(spec.ivHash, key)
  try {
    return new Essiv(blockCipher(ciphers, algorithm, salt))
  } finally {
    salt.fill(0)
  }
}
