import { blockError, codeOf, isBlockError, strerror } from '../../errors/index.js'
import type { BlockLayer, UserObject } from '../../graph/index.js'
import type { TlsSession } from '../../host/index.js'
import type { TlsCredentialsSpec } from '../../options/index.js'
import { lookupSecret } from '../crypto/index.js'

/** Longest file of credentials that is read, bytes. */
const maxFileBytes = 1 << 20

/** Who a client is if the object does not say it. */
const defaultUser = 'qemu'

/** Certificates and keys, or shared keys, for one side of TLS connections. */
export class TlsCredentials implements UserObject {
  readonly type: string
  readonly id: string
  readonly endpoint: 'client' | 'server'
  readonly #base: Omit<TlsSession, 'hostname' | 'authorize'>
  #forget: () => void

  constructor(
    spec: TlsCredentialsSpec,
    base: Omit<TlsSession, 'hostname' | 'authorize'>,
    forget: () => void,
  ) {
    this.type = spec.type
    this.id = spec.id
    this.endpoint = spec.endpoint
    this.#base = base
    this.#forget = forget
  }

  /** What a connection needs: for a client the name that the server's certificate must be for, for a server who may come. */
  session(more: Pick<TlsSession, 'hostname' | 'authorize'> = {}): TlsSession {
    return { ...this.#base, ...more }
  }

  dispose(): void {
    this.#forget()
    this.#forget = () => undefined
  }
}

/**
 * The credentials called `id`.
 *
 * @throws BlockError `No TLS credentials with id '%s'` and the like
 */
export function findTlsCredentials(
  layer: BlockLayer,
  id: string,
  endpoint: 'client' | 'server',
): TlsCredentials {
  const object = layer.objects.find(id)
  if (object === undefined) {
    throw blockError('ENOENT', `No TLS credentials with id '${id}'`)
  }
  if (!(object instanceof TlsCredentials)) {
    throw blockError('EINVAL', `Object with id '${id}' is not TLS credentials`)
  }
  if (object.endpoint !== endpoint) {
    throw blockError('EINVAL', `Expected TLS credentials for a ${endpoint} endpoint`)
  }
  return object
}

/**
 * Defines credentials in the layer; their files are read now.
 *
 * @throws BlockError `Unable to access credentials %s: %s`, `Missing 'dir' property value` and the like
 */
export function addTlsCredentials(layer: BlockLayer, spec: TlsCredentialsSpec): TlsCredentials {
  const { dir, endpoint, verifyPeer } = spec
  if (dir === undefined) {
    throw blockError('EINVAL', "Missing 'dir' property value")
  }
  const read = (name: string, required: boolean): Uint8Array | undefined => {
    const path = `${dir}/${name}`
    try {
      return layer.host.files.readWhole(path, maxFileBytes)
    } catch (error) {
      if (!isBlockError(error) || (!required && error.code === 'ENOENT')) {
        if (isBlockError(error)) {
          return undefined
        }
        throw error
      }
      const why = strerror(codeOf(error))
      throw blockError(error.code, `Unable to access credentials ${path}: ${why}`, { cause: error })
    }
  }
  const secrets: Uint8Array[] = []
  const forget = (): void => {
    for (const secret of secrets) {
      secret.fill(0)
    }
  }
  let base: Omit<TlsSession, 'hostname' | 'authorize'>
  if (spec.type === 'tls-creds-x509') {
    const isServer = endpoint === 'server'
    const ca = read('ca-cert.pem', true) as Uint8Array
    const crl = read('ca-crl.pem', false)
    const certificate = read(`${endpoint}-cert.pem`, isServer)
    const key = read(`${endpoint}-key.pem`, isServer)
    if (key !== undefined) {
      secrets.push(key)
    }
    const passphrase =
      spec.passwordId === undefined
        ? undefined
        : new TextDecoder().decode(lookupSecret(layer, spec.passwordId))
    base = { side: endpoint, verifyPeer, x509: { ca, crl, certificate, key, passphrase } }
  } else {
    const keys = parseKeys(read('keys.psk', true) as Uint8Array)
    secrets.push(...keys.values())
    const user = spec.username ?? defaultUser
    if (endpoint === 'client' && !keys.has(user)) {
      throw blockError('EINVAL', `Username ${user} not found in ${dir}/keys.psk`)
    }
    base = { side: endpoint, verifyPeer, psk: { user, keyOf: (name) => keys.get(name) } }
  }
  const credentials = new TlsCredentials(spec, base, forget)
  layer.objects.add(credentials)
  return credentials
}

/** Lines of `user:key`, the key in hexadecimal digits. */
function parseKeys(file: Uint8Array): Map<string, Uint8Array> {
  const keys = new Map<string, Uint8Array>()
  for (const line of new TextDecoder().decode(file).split('\n')) {
    const match = /^([^:]+):((?:[\da-fA-F]{2})+)\s*$/.exec(line)
    const [, user, hex] = match ?? []
    if (user !== undefined && hex !== undefined) {
      keys.set(
        user,
        Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16)),
      )
    }
  }
  return keys
}
