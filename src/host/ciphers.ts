/**
 * A block cipher under one key, without any mode: each block on its own (ECB). Modes and initialisation
 * vectors are the formats' business (formatkit), so that every platform has the same ones.
 */
export interface BlockCipher {
  /** Bytes of a block: 16, or 8 for old ciphers. */
  readonly blockBytes: number
  /** Enciphers the whole blocks in `buffer[offset, +bytes)` in place. */
  encrypt(buffer: Uint8Array, offset: number, bytes: number): void
  /** The reverse of {@link encrypt}. */
  decrypt(buffer: Uint8Array, offset: number, bytes: number): void
  /** Forgets the key as far as the platform can. */
  dispose(): void
}

/** Ciphers as the specifications name them; the length of the key says which of a family. */
export type CipherFamily = 'aes' | 'serpent' | 'twofish' | 'cast5' | 'des' | '3des'

/** QAPI `QCryptoHashAlgorithm`. */
export type HashName = 'md5' | 'sha1' | 'sha224' | 'sha256' | 'sha384' | 'sha512' | 'ripemd160'

export interface Hasher {
  /** The piece stays the caller's. */
  update(piece: Uint8Array): void
  /** Once, at the end. */
  digest(): Uint8Array
}

export interface HostCiphers {
  /** The cipher under `key`, which is copied; undefined if the platform lacks it, or with keys of this length. */
  blockCipher(family: CipherFamily, key: Uint8Array): BlockCipher | undefined
  /** Whether {@link digest} and {@link pbkdf2} know the hash. */
  hasHash(hash: HashName): boolean
  /** The hash of the parts one after the other. */
  digest(hash: HashName, ...parts: readonly Uint8Array[]): Uint8Array
  /** A hash of data that comes piece by piece. */
  hasher(hash: HashName): Hasher
  /**
   * PBKDF2 with HMAC, `bytes` bytes of it. On another thread where the platform has one; the inputs must
   * stay untouched until then.
   *
   * @param iterations at least 1
   */
  pbkdf2(
    hash: HashName,
    password: Uint8Array,
    salt: Uint8Array,
    iterations: number,
    bytes: number,
  ): Promise<Uint8Array>
}
