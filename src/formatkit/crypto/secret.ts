import { blockError, isBlockError, strerror } from '../../errors/index.js'
import type { BlockLayer, UserObject } from '../../graph/index.js'
import type { Host } from '../../host/index.js'
import { decodeBase64, type SecretSpec } from '../../options/index.js'

/** Most bytes read from a secret's file. */
const maxSecretBytes = 1024 * 1024

/** Length of a secret that another one is encrypted with, and of an initialisation vector, bytes. */
const keyBytes = 32
const ivBytes = 16

/** A password or key. Its value shows nowhere: not in errors, names, JSON or inspection. */
export class Secret implements UserObject {
  readonly type = 'secret'
  readonly id: string
  #value: Uint8Array | undefined

  /** @param value owned by the secret from now on; undefined: it gets one by {@link set} */
  constructor(id: string, value?: Uint8Array) {
    this.id = id
    this.#value = value
  }

  /** @param value owned by the secret from now on */
  set(value: Uint8Array): void {
    this.dispose()
    this.#value = value
  }

  /** A copy of the value, which the caller wipes after use; undefined before there is one and after {@link dispose}. */
  read(): Uint8Array | undefined {
    return this.#value?.slice()
  }

  dispose(): void {
    this.#value?.fill(0)
    this.#value = undefined
  }
}

/**
 * The value of the secret called `id`. The caller wipes it after use.
 *
 * @throws BlockError `No secret with id '%s'` and the like
 */
export function lookupSecret(layer: BlockLayer, id: string): Uint8Array {
  const object = layer.objects.find(id)
  if (object === undefined) {
    throw blockError('ENOENT', `No secret with id '${id}'`)
  }
  if (!(object instanceof Secret)) {
    throw blockError('EINVAL', `Object with id '${id}' is not a secret`)
  }
  const value = object.read()
  if (value === undefined) {
    throw blockError('EINVAL', `Secret with id '${id}' has no data`)
  }
  return value
}

/**
 * As {@link lookupSecret}, for passwords, which must be text without NUL. The caller wipes the bytes after use.
 *
 * @throws EINVAL `Data from secret %s is not valid UTF-8`
 */
export function lookupPassword(layer: BlockLayer, id: string): Uint8Array {
  const value = lookupSecret(layer, id)
  if (!isText(value)) {
    value.fill(0)
    throw blockError('EINVAL', `Data from secret ${id} is not valid UTF-8`)
  }
  return value
}

function isText(bytes: Uint8Array): boolean {
  if (bytes.includes(0)) {
    return false
  }
  try {
    new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    return true
  } catch {
    return false
  }
}

/**
 * Adds the secret that `--object secret,…` describes to the layer's objects.
 *
 * @throws BlockError with QEMU's text; there is no such object then
 */
export function addSecret(layer: BlockLayer, spec: SecretSpec): Secret {
  const secret = new Secret(spec.id)
  layer.objects.add(secret)
  try {
    secret.set(secretValue(layer, spec))
  } catch (error) {
    layer.objects.remove(spec.id)
    throw error
  }
  return secret
}

function secretValue(layer: BlockLayer, spec: SecretSpec): Uint8Array {
  const { format, data, file, keyId, iv } = spec
  let value: Uint8Array
  if (file !== undefined) {
    if (data !== undefined) {
      throw blockError('EINVAL', "'file' and 'data' are mutually exclusive")
    }
    value = readSecret(layer.host, file)
  } else if (data !== undefined) {
    value = new TextEncoder().encode(data)
  } else {
    throw blockError('EINVAL', "Either 'file' or 'data' must be provided")
  }
  if (keyId !== undefined) {
    return decryptSecret(layer, keyId, iv, value, format)
  }
  return format === 'base64' ? decoded(value) : value
}

function decoded(value: Uint8Array): Uint8Array {
  const result = decodeBase64(new TextDecoder().decode(value))
  value.fill(0)
  return result
}

/** Deciphers `stored` (AES-256-CBC, padded) with the secret `keyId`. */
function decryptSecret(
  layer: BlockLayer,
  keyId: string,
  ivText: string | undefined,
  stored: Uint8Array,
  format: SecretSpec['format'],
): Uint8Array {
  const key = lookupSecret(layer, keyId)
  try {
    if (key.length !== keyBytes) {
      throw blockError('EINVAL', `Key should be ${keyBytes} bytes in length`)
    }
    if (ivText === undefined) {
      throw blockError('EINVAL', 'IV is required to decrypt secret')
    }
    const iv = decodeBase64(ivText)
    if (iv.length !== ivBytes) {
      throw blockError('EINVAL', `IV should be ${ivBytes} bytes in length not ${iv.length}`)
    }
    const cipher = layer.host.ciphers?.blockCipher('aes', key)
    if (cipher === undefined) {
      throw blockError('ENOTSUP', "Algorithm 'aes-256' not supported")
    }
    const value = format === 'base64' ? decoded(stored) : stored
    try {
      if (value.length % cipher.blockBytes !== 0) {
        throw blockError(
          'EINVAL',
          `Length ${value.length} must be a multiple of block size ${cipher.blockBytes}`,
        )
      }
      const masks = new Uint8Array(iv.length + value.length)
      masks.set(iv)
      masks.set(value, iv.length)
      cipher.decrypt(value, 0, value.length)
      for (let i = 0; i < value.length; i++) {
        value[i] = (value[i] as number) ^ (masks[i] as number)
      }
      return withoutPadding(value)
    } finally {
      cipher.dispose()
      value.fill(0)
    }
  } finally {
    key.fill(0)
  }
}

function withoutPadding(value: Uint8Array): Uint8Array {
  const padding = value.at(-1) ?? 0
  if (padding > 16 || padding > value.length) {
    throw blockError('EINVAL', `Incorrect number of padding bytes (${padding}) found on decrypted data`)
  }
  return value.slice(0, value.length - padding)
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
