import { blockError, errnoError, ioError } from '../../../errors/index.js'
import {
  type EncryptFormat,
  imagePassword,
  legacyCipher,
  type SectorCipher,
  type SectorCrypto,
  sectorBytes,
} from '../../../formatkit/crypto/index.js'
import { type LuksStorage, type LuksVolume, nodeStorage, openLuks } from '../../../formatkit/luks/index.js'
import type { BlockLayer } from '../../../graph/index.js'
import type { Host } from '../../../host/index.js'
import type { IoNode } from '../../../io/index.js'
import type { OptionTree } from '../../../options/index.js'
import { CryptMethod } from './constants.js'
import type { Qcow2Header } from './header.js'

/** What the `encrypt.*` options of an open say. */
export interface EncryptOptions {
  readonly format: string | undefined
  /** Id of a secret. */
  readonly keySecret: string | undefined
}

/** Encryption of an open image: where its sectors get their numbers from, and the key if it is known. */
export class Qcow2Crypto implements SectorCrypto {
  readonly method: 'aes' | 'luks'
  readonly keySecret: string | undefined
  readonly #host: Host
  readonly #node: IoNode
  #volume: LuksVolume | undefined
  #cipher: SectorCipher | undefined

  constructor(
    host: Host,
    node: IoNode,
    method: 'aes' | 'luks',
    keySecret: string | undefined,
    volume: LuksVolume | undefined,
    cipher: SectorCipher | undefined,
  ) {
    this.#host = host
    this.#node = node
    this.method = method
    this.keySecret = keySecret
    this.#volume = volume
    this.#cipher = cipher
  }

  /** The LUKS header; legacy images have none. */
  get volume(): LuksVolume | undefined {
    return this.#volume
  }

  get hasKey(): boolean {
    return this.#cipher !== undefined
  }

  /** Sets the password of a legacy image. Every password is a key, so none is wrong. */
  setLegacyKey(password: Uint8Array): void {
    const cipher = legacyCipher(this.#host, password)
    this.#cipher?.dispose()
    this.#cipher = cipher
  }

  /** Takes over a volume that was unlocked later. */
  setVolume(volume: LuksVolume): void {
    this.#volume?.dispose()
    this.#volume = volume
    this.#cipher = volume.cipher
  }

  /** LUKS counts host sectors, so that equal data at two places differs; the legacy method guest sectors. */
  #sector(guestOffset: number, hostOffset: number): number {
    return (this.method === 'luks' ? hostOffset : guestOffset) / sectorBytes
  }

  #needCipher(): SectorCipher {
    if (this.#cipher === undefined) {
      throw ioError('EPERM', { node: this.#node.nodeName, operation: 'access without key' })
    }
    return this.#cipher
  }

  /** Enciphers whole sectors in place, as they will stand at `hostOffset` of the file. */
  encrypt(guestOffset: number, hostOffset: number, bytes: number, buffer: Uint8Array, at: number): void {
    this.#needCipher().encrypt(this.#sector(guestOffset, hostOffset), buffer, at, bytes)
  }

  decrypt(guestOffset: number, hostOffset: number, bytes: number, buffer: Uint8Array, at: number): void {
    this.#needCipher().decrypt(this.#sector(guestOffset, hostOffset), buffer, at, bytes)
  }

  /** QAPI `ImageInfoSpecificQCow2Encryption`. */
  info(): OptionTree {
    return { ...this.#volume?.info(), format: this.method }
  }

  dispose(): void {
    this.#cipher?.dispose()
    this.#cipher = undefined
    this.#volume = undefined
  }
}

/** The format of an image's encryption, as `encrypt.format` names it. */
export function encryptFormatOf({ cryptMethod }: Qcow2Header): EncryptFormat | undefined {
  return cryptMethod === CryptMethod.none ? undefined : cryptMethod === CryptMethod.luks ? 'luks' : 'aes'
}

/** Where QEMU's files end at the latest: 2^63 rounded down to a gigabyte. Bytes. */
const qemuMaxLength = 0x7fffffffc0000000

/** The LUKS header inside an image. Requests past its end are refused. */
export function luksStorageOf(file: IoNode, header: Qcow2Header): LuksStorage {
  const { offset, length } = header.crypto ?? { offset: 0, length: 0 }
  const storage = nodeStorage(file, offset)
  const check = (at: number, bytes: number): void => {
    if (at + bytes > length) {
      throw blockError('EINVAL', 'Request for data outside of extension header')
    }
    if (offset + at + bytes > qemuMaxLength) {
      throw errnoError('EIO', 'Could not read encryption header')
    }
  }
  /** Beyond what offsets can be there is no file: it reads as zeroes, as everything behind the end. */
  const isNowhere = (at: number, bytes: number) => !Number.isSafeInteger(offset + at + bytes)
  return {
    read: async (at, bytes) => {
      check(at, bytes)
      return isNowhere(at, bytes) ? new Uint8Array(bytes) : await storage.read(at, bytes)
    },
    write: async (at, data) => {
      check(at, data.length)
      if (isNowhere(at, data.length)) {
        throw ioError('EIO')
      }
      await storage.write(at, data)
    },
    flush: () => storage.flush(),
  }
}

/**
 * Opens the encryption of an image; undefined if it has none.
 *
 * @param noIo only metadata is asked for: no key is needed, and a missing header is all right
 * @throws BlockError with QEMU's texts
 */
export async function openCrypto(
  layer: BlockLayer,
  node: IoNode,
  file: IoNode,
  header: Qcow2Header,
  options: EncryptOptions,
  noIo: boolean,
): Promise<Qcow2Crypto | undefined> {
  const { host } = layer
  const { keySecret } = options
  if (header.cryptMethod === CryptMethod.none) {
    return undefined
  }
  const legacy = header.cryptMethod === CryptMethod.aes
  if (!legacy && header.crypto === undefined) {
    if (noIo) {
      return new Qcow2Crypto(host, node, 'luks', keySecret, undefined, undefined)
    }
    throw blockError('EINVAL', `Missing CRYPTO header for crypt method ${header.cryptMethod}`)
  }
  const password = noIo ? undefined : imagePassword(layer, keySecret)
  try {
    if (legacy) {
      const cipher = password === undefined ? undefined : legacyCipher(host, password)
      return new Qcow2Crypto(host, node, 'aes', keySecret, undefined, cipher)
    }
    const volume = await openLuks(host, luksStorageOf(file, header), password)
    return new Qcow2Crypto(host, node, 'luks', keySecret, volume, volume.cipher)
  } finally {
    password?.fill(0)
  }
}
