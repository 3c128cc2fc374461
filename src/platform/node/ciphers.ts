import { createRequire } from 'node:module'
import { ioError } from '../../errors/index.js'
import type { BlockCipher, CipherFamily, HashName, HostCiphers } from '../../host/index.js'

const require = createRequire(import.meta.url)

type NodeCrypto = typeof import('node:crypto')

/** node:crypto takes some 4 ms to load, so it is loaded when first needed. */
let loaded: NodeCrypto | undefined
function crypto(): NodeCrypto {
  loaded ??= require('node:crypto') as NodeCrypto
  return loaded
}

/** OpenSSL's names by family and key length in bytes. Its other families are not in Node's default provider. */
const cipherNames: Readonly<Partial<Record<CipherFamily, Readonly<Record<number, string>>>>> = {
  aes: { 16: 'aes-128-ecb', 24: 'aes-192-ecb', 32: 'aes-256-ecb' },
  '3des': { 24: 'des-ede3-ecb' },
}

/** One OpenSSL call takes a microsecond besides its work, and large results cost page faults. */
const pieceBytes = 65536

type Transform = ReturnType<NodeCrypto['createCipheriv']> | ReturnType<NodeCrypto['createDecipheriv']>

function transform(cipher: Transform, buffer: Uint8Array, offset: number, bytes: number): void {
  const end = offset + bytes
  for (let at = offset; at < end; at += pieceBytes) {
    buffer.set(cipher.update(buffer.subarray(at, Math.min(end, at + pieceBytes))), at)
  }
}

/** Each block stands alone, so one pair of streams serves every request. */
class OpensslCipher implements BlockCipher {
  readonly blockBytes: number
  readonly #encipher: Transform
  readonly #decipher: Transform

  constructor(name: string, key: Uint8Array, blockBytes: number) {
    this.blockBytes = blockBytes
    this.#encipher = crypto().createCipheriv(name, key, null).setAutoPadding(false)
    this.#decipher = crypto().createDecipheriv(name, key, null).setAutoPadding(false)
  }

  encrypt(buffer: Uint8Array, offset: number, bytes: number): void {
    transform(this.#encipher, buffer, offset, bytes)
  }

  decrypt(buffer: Uint8Array, offset: number, bytes: number): void {
    transform(this.#decipher, buffer, offset, bytes)
  }

  /** OpenSSL wipes the key schedule when a stream ends. */
  dispose(): void {
    this.#encipher.final()
    this.#decipher.final()
  }
}

function blockCipher(family: CipherFamily, key: Uint8Array): BlockCipher | undefined {
  const name = cipherNames[family]?.[key.length]
  return name === undefined || crypto().getCipherInfo(name) === undefined
    ? undefined
    : new OpensslCipher(name, key, family === 'aes' ? 16 : 8)
}

/** PBKDF2 as far as OpenSSL takes iterations; beyond that it would take an hour anyway. */
const maxIterations = 0x7fffffff

/** The ciphers of node:crypto. */
export const nodeCiphers: HostCiphers = {
  blockCipher,

  hasHash: (hash: HashName) => crypto().getHashes().includes(hash),

  digest: (hash, ...parts) => {
    const digest = crypto().createHash(hash)
    for (const part of parts) {
      digest.update(part)
    }
    return new Uint8Array(digest.digest())
  },

  hasher: (hash) => {
    const digest = crypto().createHash(hash)
    return {
      update: (piece) => {
        digest.update(piece)
      },
      digest: () => new Uint8Array(digest.digest()),
    }
  },

  pbkdf2: (hash, password, salt, iterations, bytes) =>
    new Promise((resolve, reject) => {
      if (iterations > maxIterations) {
        throw ioError('ERANGE', { operation: 'PBKDF2' })
      }
      crypto().pbkdf2(password, salt, iterations, bytes, hash, (error, key) => {
        if (error === null) {
          resolve(new Uint8Array(key))
        } else {
          reject(ioError('ENOTSUP', { operation: `PBKDF2 with ${hash}: ${error.message}` }))
        }
      })
    }),
}
