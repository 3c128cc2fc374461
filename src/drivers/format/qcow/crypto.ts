import { ioError } from '../../../errors/index.js'
import { legacyCipher, type SectorCipher, type SectorCrypto } from '../../../formatkit/crypto/index.js'
import type { KeyHooks } from '../../../graph/index.js'
import type { Host } from '../../../host/index.js'
import type { IoNode } from '../../../io/index.js'
import { sectorBytes } from './header.js'

/** AES of an encrypted image, once the password is known. Every password is a key, so none is wrong. */
export class QcowCrypto implements SectorCrypto, KeyHooks {
  readonly encrypted = true
  readonly #host: Host
  readonly #node: IoNode
  #cipher: SectorCipher | undefined

  constructor(host: Host, node: IoNode) {
    this.#host = host
    this.#node = node
  }

  get hasKey(): boolean {
    return this.#cipher !== undefined
  }

  /** @param key the password, which stays the caller's */
  setKey(key: Uint8Array): undefined {
    const cipher = legacyCipher(this.#host, key)
    this.dispose()
    this.#cipher = cipher
    return undefined
  }

  #needCipher(): SectorCipher {
    if (this.#cipher === undefined) {
      throw ioError('EPERM', { node: this.#node.nodeName, operation: 'access without key' })
    }
    return this.#cipher
  }

  encrypt(guestOffset: number, _hostOffset: number, bytes: number, buffer: Uint8Array, at: number): void {
    this.#needCipher().encrypt(guestOffset / sectorBytes, buffer, at, bytes)
  }

  decrypt(guestOffset: number, _hostOffset: number, bytes: number, buffer: Uint8Array, at: number): void {
    this.#needCipher().decrypt(guestOffset / sectorBytes, buffer, at, bytes)
  }

  dispose(): void {
    this.#cipher?.dispose()
    this.#cipher = undefined
  }
}
