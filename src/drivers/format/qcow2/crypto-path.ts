import type { MapPath } from '../../../io/index.js'
import type { Qcow2Crypto } from './crypto.js'

/** Gives a path what it takes to store data enciphered; returns it. */
export function encryptedPath<T extends MapPath>(path: T, crypto: Qcow2Crypto): T {
  const hooks: Pick<MapPath, 'decode' | 'encode'> = {
    decode: (offset, hostOffset, bytes, buffer, at) => crypto.decrypt(offset, hostOffset, bytes, buffer, at),
    encode: (offset, hostOffset, bytes, buffer, at) => crypto.encrypt(offset, hostOffset, bytes, buffer, at),
  }
  return Object.assign(path, hooks)
}
