import type { MapPath } from '../../io/index.js'

/** Enciphers and deciphers whole sectors in place. Offsets are bytes: what the guest sees, and where it stands. */
export interface SectorCrypto {
  encrypt(guestOffset: number, hostOffset: number, bytes: number, buffer: Uint8Array, at: number): void
  decrypt(guestOffset: number, hostOffset: number, bytes: number, buffer: Uint8Array, at: number): void
}

/** Gives a path what it takes to store data enciphered; returns it. */
export function encryptedPath<T extends MapPath>(path: T, crypto: SectorCrypto): T {
  const hooks: Pick<MapPath, 'decode' | 'encode'> = {
    decode: (offset, hostOffset, bytes, buffer, at) => crypto.decrypt(offset, hostOffset, bytes, buffer, at),
    encode: (offset, hostOffset, bytes, buffer, at) => crypto.encrypt(offset, hostOffset, bytes, buffer, at),
  }
  return Object.assign(path, hooks)
}
