import { blockError } from '../../errors/index.js'
import type { BlockLayer } from '../../graph/index.js'
import type { Host } from '../../host/index.js'
import { type CipherSpec, makeSectorCipher } from './make-cipher.js'
import { cipherAlgorithms } from './names.js'
import { lookupPassword } from './secret.js'
import type { SectorCipher } from './sector-cipher.js'

/** AES-CBC as the first encrypted images had it: the password is the key, guest sectors the vectors. */
const legacySpec: CipherSpec = {
  cipher: cipherAlgorithms[0] as (typeof cipherAlgorithms)[number],
  mode: 'cbc',
  ivgen: 'plain64',
  ivHash: undefined,
}
const legacyKeyBytes = 16

/** The cipher of legacy images: the first 16 bytes of the password, or what there is of it and zeroes. */
export function legacyCipher(host: Host, password: Uint8Array): SectorCipher {
  const key = new Uint8Array(legacyKeyBytes)
  key.set(password.subarray(0, legacyKeyBytes))
  try {
    return makeSectorCipher(host.ciphers, legacySpec, key)
  } finally {
    key.fill(0)
  }
}

/**
 * The password that `encrypt.key-secret` names, to be wiped by the caller.
 *
 * @throws EINVAL with QEMU's text if no secret is named, and as {@link lookupPassword}
 */
export function imagePassword(layer: BlockLayer, keySecret: string | undefined): Uint8Array {
  if (keySecret === undefined) {
    throw blockError('EINVAL', "Parameter 'encrypt.key-secret' is required for cipher")
  }
  return lookupPassword(layer, keySecret)
}
