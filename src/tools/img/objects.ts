import { blockError, isBlockError, strerror } from '../../errors/index.js'
import type { Host } from '../../host/index.js'
import { decodeBase64, parseObject } from '../../options/index.js'

/** Most bytes read from a secret's file. */
const maxSecretBytes = 1024 * 1024

/** Length of a secret that another one is encrypted with. */
const keyBytes = 32

/** The objects that `--object` defines. Secrets are checked and kept; nothing asks for them yet. */
export class ToolObjects {
  readonly #secrets = new Map<string, Uint8Array | undefined>()

  /**
   * Defines an object, or returns the lines of a list that the user asks for.
   *
   * @throws BlockError with QEMU's text
   */
  add(text: string, host: Host): readonly string[] | undefined {
    const request = parseObject(text)
    if (request.kind === 'help') {
      return request.lines
    }
    const { id, format, data, file, keyId, iv } = request.secret
    if (this.#secrets.has(id)) {
      throw blockError('EEXIST', `attempt to add duplicate property '${id}' to object (type 'container')`)
    }
    this.#secrets.set(id, undefined)
    let value: Uint8Array
    if (file !== undefined) {
      if (data !== undefined) {
        throw blockError('EINVAL', "'file' and 'data' are mutually exclusive")
      }
      value = readSecret(host, file)
    } else if (data !== undefined) {
      value = new TextEncoder().encode(data)
    } else {
      throw blockError('EINVAL', "Either 'file' or 'data' must be provided")
    }
    if (keyId !== undefined) {
      this.#checkKey(keyId, iv)
    } else if (format === 'base64') {
      value = decodeBase64(new TextDecoder().decode(value))
    }
    this.#secrets.set(id, value)
    return undefined
  }

  #checkKey(keyId: string, iv: string | undefined): never {
    if (!this.#secrets.has(keyId)) {
      throw blockError('ENOENT', `No secret with id '${keyId}'`)
    }
    const key = this.#secrets.get(keyId)
    if (key === undefined) {
      throw blockError('EINVAL', `Secret with id '${keyId}' has no data`)
    }
    if (key.length !== keyBytes) {
      throw blockError('EINVAL', `Key should be ${keyBytes} bytes in length`)
    }
    if (iv === undefined) {
      throw blockError('EINVAL', 'IV is required to decrypt secret')
    }
    throw blockError('ENOTSUP', 'Encrypted secrets are not supported by this version')
  }
}

function readSecret(host: Host, file: string): Uint8Array {
  try {
    if (host.files.stat(file)?.kind === 'directory') {
      throw blockError(
        'EISDIR',
        `Unable to read ${file}: Error reading file “${file}”: ${strerror('EISDIR')}`,
      )
    }
    return host.files.readWhole(file, maxSecretBytes)
  } catch (error) {
    if (!isBlockError(error) || error.code === 'EISDIR') {
      throw error
    }
    const text = `Unable to read ${file}: Failed to open file “${file}”: ${strerror(error.code)}`
    throw blockError(error.code, text, { cause: error })
  }
}
