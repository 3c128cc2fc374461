import { blockError } from '../../errors/index.js'
import type { CipherFamily, HashName } from '../../host/index.js'
import {
  type CipherAlgorithm,
  type CipherSpec,
  cipherAlgorithms,
  cipherModes,
  essivCipher,
  isHashName,
  ivGenerators,
} from '../crypto/index.js'
import type { LuksHeader } from './header.js'

/** What a header's names mean. */
export interface LuksSpec extends CipherSpec {
  /** For passwords, the digest and the splitter. */
  readonly hash: HashName
}

/** Cipher families that LUKS has a name for; QEMU writes no others. */
const families: readonly CipherFamily[] = ['aes', 'cast5', 'serpent', 'twofish']

function unsupported(what: string, name: string) {
  return blockError('ENOTSUP', `${what} '${name}' not supported`)
}

function hashOf(name: string): HashName {
  if (!isHashName(name)) {
    throw unsupported('Hash algorithm', name)
  }
  return name
}

function cipherOf(name: string, mode: string, headerKeyBytes: number): CipherAlgorithm {
  const keyBytes = mode === 'xts' ? Math.floor(headerKeyBytes / 2) : headerKeyBytes
  const found = families.some((family) => family === name)
    ? cipherAlgorithms.find((one) => one.family === name && one.keyBytes === keyBytes)
    : undefined
  if (found === undefined) {
    throw blockError('ENOTSUP', `Algorithm '${name}' with key size ${keyBytes | 0} bytes not supported`)
  }
  return found
}

/**
 * Interprets the names in a header.
 *
 * @throws BlockError with QEMU's text, checks in QEMU's order
 */
export function luksSpec(header: LuksHeader): LuksSpec {
  const { cipherMode } = header
  const dash = cipherMode.indexOf('-')
  if (dash < 0) {
    throw blockError('EINVAL', `Unexpected cipher mode string format '${cipherMode}'`)
  }
  const modeName = cipherMode.slice(0, dash)
  const [ivgenName = '', ivHashName] = splitOnce(cipherMode.slice(dash + 1), ':')
  const ivHash = ivHashName === undefined ? undefined : hashOf(ivHashName)
  const mode = cipherModes.find((name) => name === modeName)
  if (mode === undefined) {
    throw unsupported('Cipher mode', modeName)
  }
  const cipher = cipherOf(header.cipherName, mode, header.keyBytes)
  const hash = hashOf(header.hashSpec)
  const ivgen = ivGenerators.find((name) => name === ivgenName)
  if (ivgen === undefined) {
    throw unsupported('IV generator', ivgenName)
  }
  if (ivgen === 'essiv') {
    if (ivHash === undefined) {
      throw blockError('EINVAL', 'Missing IV generator hash specification')
    }
    essivCipher(cipher, ivHash)
  }
  return { cipher, mode, ivgen, ivHash, hash }
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator)
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)]
}

/**
 * The name of a cipher in a LUKS header.
 *
 * @throws ENOTSUP `Algorithm '%s' not supported`
 */
export function luksCipherName(cipher: CipherAlgorithm): string {
  if (!families.includes(cipher.family)) {
    throw blockError('ENOTSUP', `Algorithm '${cipher.name}' not supported`)
  }
  return cipher.family
}
