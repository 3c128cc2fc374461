import { blockError } from '../errors/index.js'
import { type AuthorizationSpec, authorizationHelp, readAuthorization } from './authorization.js'
import { type JsonObject, parseJson } from './json-parse.js'
import { parseKeyval } from './keyval.js'
import { MemberReader } from './member-reader.js'
import { identifierError, isIdentifier } from './opts-text.js'

/** Longest burst of a throttle group, seconds. */
const maxBurstLength = 0xffffffff

/** A `secret` object: a password or key, given or in a file. */
export interface SecretSpec {
  readonly id: string
  readonly format: 'raw' | 'base64'
  readonly data?: string
  readonly file?: string
  /** The secret that this one is encrypted with, and the initialisation vector. */
  readonly keyId?: string
  readonly iv?: string
}

/** A `throttle-group` object: members of QAPI's `ThrottleLimits` by name. What they mean together is not looked at. */
export interface ThrottleGroupSpec {
  readonly id: string
  readonly values: Readonly<Record<string, number>>
}

/** Objects of types `tls-creds-*`: what one side of TLS shows and believes. */
export interface TlsCredentialsSpec {
  readonly type: 'tls-creds-x509' | 'tls-creds-psk'
  readonly id: string
  readonly endpoint: 'client' | 'server'
  /** Folder with the files. */
  readonly dir?: string
  readonly verifyPeer: boolean
  /** x509: the secret that the private key is encrypted with. */
  readonly passwordId?: string
  /** psk: who a client says he is. */
  readonly username?: string
}

/** An `iothread` object. */
export interface IoThreadSpec {
  readonly id: string
  /** Its properties by name. Only their ranges are looked at: the threads here have no polling to tune. */
  readonly values: Readonly<Record<string, number>>
}

/** What the text of `--object` asks for: an object, or a list of what there is. */
export type ObjectRequest =
  | { readonly kind: 'secret'; readonly secret: SecretSpec }
  | { readonly kind: 'throttle-group'; readonly throttleGroup: ThrottleGroupSpec }
  | { readonly kind: 'tls-creds'; readonly credentials: TlsCredentialsSpec }
  | { readonly kind: 'authz'; readonly authorization: AuthorizationSpec }
  | { readonly kind: 'iothread'; readonly ioThread: IoThreadSpec }
  | { readonly kind: 'help'; readonly lines: readonly string[] }

/** Types of objects that this package has. */
const ownTypes = [
  ...['authz-list', 'authz-list-file', 'authz-simple'],
  ...['secret', 'throttle-group', 'tls-creds-psk', 'tls-creds-x509'],
]

/** QEMU's other object types, which this package has no use for. */
const otherTypes = [
  'authz-listfile',
  'authz-pam',
  'can-bus',
  'can-host-socketcan',
  'colo-compare',
  'cryptodev-backend',
  'cryptodev-backend-builtin',
  'cryptodev-backend-lkcf',
  'cryptodev-vhost-user',
  'dbus-vmstate',
  'filter-buffer',
  'filter-dump',
  'filter-mirror',
  'filter-redirector',
  'filter-replay',
  'filter-rewriter',
  'input-barrier',
  'input-linux',
  'iothread',
  'main-loop',
  'memory-backend-epc',
  'memory-backend-file',
  'memory-backend-memfd',
  'memory-backend-ram',
  'pef-guest',
  'pr-manager-helper',
  'qtest',
  'rng-builtin',
  'rng-egd',
  'rng-random',
  'secret_keyring',
  'sev-guest',
  'thread-context',
  's390-pv-guest',
  'tls-creds-anon',
  'tls-cipher-suites',
  'x-remote-object',
  'x-vfio-user-server',
]

const secretHelp = [
  'secret options:',
  '  data=<string>',
  '  file=<string>',
  '  format=<QCryptoSecretFormat>',
  '  iv=<string>',
  '  keyid=<string>',
]

/** Members of `ThrottleLimits` in the order in which they are read; with `x-` in front also those of the object. */
const limitNames = [
  ...['iops', 'bps'].flatMap((unit) =>
    ['total', 'read', 'write'].flatMap((direction) => [
      `${unit}-${direction}`,
      `${unit}-${direction}-max`,
      `${unit}-${direction}-max-length`,
    ]),
  ),
  'iops-size',
]

const throttleGroupHelp = [
  'throttle-group options:',
  '  limits=<ThrottleLimits>',
  ...['bps', 'iops'].flatMap((unit) => [
    ...['read', 'size', 'total', 'write'].flatMap((word) => {
      const name = `  x-${unit}-${word}`
      if (word === 'size') {
        return unit === 'iops' ? [`${name}=<int>`] : []
      }
      return [`${name}-max-length=<int>`, `${name}-max=<int>`, `${name}=<int>`]
    }),
  ]),
]

/** Properties of an I/O thread in the order in which they are read, with what they are without being given. */
export const ioThreadDefaults = {
  'aio-max-batch': 0,
  'thread-pool-min': 0,
  'thread-pool-max': 64,
  'poll-max-ns': 32768,
  'poll-grow': 0,
  'poll-shrink': 0,
} as const
const ioThreadNames = Object.keys(ioThreadDefaults)

const tlsHelp = ['  dir=<string>', '  endpoint=<QCryptoTLSCredsEndpoint>', '  priority=<string>']

function objectHelp(type: unknown, ioThreads: boolean): readonly string[] {
  switch (ioThreads || type !== 'iothread' ? type : undefined) {
    case 'tls-creds-psk':
      return ['tls-creds-psk options:', ...tlsHelp, '  username=<string>', '  verify-peer=<bool>']
    case 'tls-creds-x509':
      return [
        'tls-creds-x509 options:',
        ...tlsHelp.slice(0, 2),
        '  passwordid=<string>',
        ...tlsHelp.slice(2),
        '  sanity-check=<bool>',
        '  verify-peer=<bool>',
      ]
    case 'iothread':
      return ['iothread options:', ...[...ioThreadNames].sort().map((name) => `  ${name}=<int>`)]
    case 'secret':
      return secretHelp
    case 'throttle-group':
      return throttleGroupHelp
    default:
      return (
        authorizationHelp(type) ?? [
          'List of user creatable objects:',
          ...(ioThreads ? [...ownTypes, 'iothread'].sort() : ownTypes).map((name) => `  ${name}`),
        ]
      )
  }
}

/**
 * Parses the argument of `--object`: key-value text or JSON.
 *
 * @param ioThreads whether the program has I/O threads
 * @throws BlockError EINVAL with QEMU's text. What the object's data is worth is not looked at.
 */
export function parseObject(text: string, ioThreads = false): ObjectRequest {
  let value: JsonObject
  const isJson = text.startsWith('{')
  if (isJson) {
    value = parseJson(text) as JsonObject
  } else {
    const parsed = parseKeyval(text, 'qom-type')
    value = parsed.value
    if (parsed.help) {
      return { kind: 'help', lines: objectHelp(value['qom-type'], ioThreads) }
    }
  }
  return new ObjectReader(value, isJson, ioThreads).object()
}

/**
 * Reads what describes an object, `qom-type` and `id` among its members (`object-add`).
 *
 * @throws BlockError EINVAL with QEMU's text
 */
export function readObject(value: JsonObject): Exclude<ObjectRequest, { kind: 'help' }> {
  return new ObjectReader(value, true, true).object()
}

/** Takes an object's members as the type's description has them; the order decides which error comes first. */
class ObjectReader {
  readonly #members: MemberReader
  readonly #ioThreads: boolean

  constructor(value: JsonObject, isJson: boolean, ioThreads: boolean) {
    this.#members = new MemberReader(value, isJson)
    this.#ioThreads = ioThreads
  }

  object(): Exclude<ObjectRequest, { kind: 'help' }> {
    const type = this.#members.required('qom-type')
    if (!ownTypes.includes(type) && !otherTypes.includes(type)) {
      throw blockError('EINVAL', `Parameter 'qom-type' does not accept value '${type}'`)
    }
    const id = this.#members.required('id')
    switch (type) {
      case 'authz-simple':
      case 'authz-list':
      case 'authz-list-file':
      case 'authz-listfile':
      case 'authz-pam':
        return { kind: 'authz', authorization: this.#authorization(type, id) }
      case 'iothread':
        if (this.#ioThreads) {
          return { kind: 'iothread', ioThread: this.#ioThread(id) }
        }
        break
      case 'secret':
        return { kind: 'secret', secret: this.#secret(id) }
      case 'throttle-group':
        return { kind: 'throttle-group', throttleGroup: this.#throttleGroup(id) }
      case 'tls-creds-psk':
      case 'tls-creds-x509':
        return { kind: 'tls-creds', credentials: this.#tlsCredentials(type, id) }
    }
    throw blockError('EINVAL', `invalid object type: ${type}`)
  }

  #authorization(type: string, id: string): AuthorizationSpec {
    const spec = readAuthorization(this.#members, type, id)
    this.#finish(id)
    if (spec === undefined) {
      // There is no PAM here, nor in QEMU's tools where they are built without it.
      throw blockError('EINVAL', `invalid object type: ${type}`)
    }
    return spec
  }

  #secret(id: string): SecretSpec {
    const hasLoaded = this.#members.flag('loaded') !== undefined
    const format = this.#members.choice('format', ['raw', 'base64']) ?? 'raw'
    const keyId = this.#members.optional('keyid')
    const iv = this.#members.optional('iv')
    const data = this.#members.optional('data')
    const file = this.#members.optional('file')
    this.#finish(id)
    if (hasLoaded) {
      throw blockError('EINVAL', "Property 'secret.loaded' is not writable")
    }
    return {
      id,
      format,
      ...(data === undefined ? {} : { data }),
      ...(file === undefined ? {} : { file }),
      ...(keyId === undefined ? {} : { keyId }),
      ...(iv === undefined ? {} : { iv }),
    }
  }

  #tlsCredentials(type: TlsCredentialsSpec['type'], id: string): TlsCredentialsSpec {
    const verifyPeer = this.#members.flag('verify-peer') ?? true
    const dir = this.#members.optional('dir')
    const endpoint = this.#members.choice('endpoint', ['client', 'server']) ?? 'client'
    const priority = this.#members.optional('priority')
    const hasLoaded = this.#members.flag('loaded') !== undefined
    let passwordId: string | undefined
    let username: string | undefined
    if (type === 'tls-creds-x509') {
      // Certificates are looked at when they are used.
      this.#members.flag('sanity-check')
      passwordId = this.#members.optional('passwordid')
    } else {
      username = this.#members.optional('username')
    }
    this.#finish(id)
    if (hasLoaded) {
      throw blockError('EINVAL', `Property '${type}.loaded' is not writable`)
    }
    if (priority !== undefined) {
      throw blockError('ENOTSUP', `Property '${type}.priority' is not supported`)
    }
    return {
      type,
      id,
      endpoint,
      verifyPeer,
      ...(dir === undefined ? {} : { dir }),
      ...(passwordId === undefined ? {} : { passwordId }),
      ...(username === undefined ? {} : { username }),
    }
  }

  #ioThread(id: string): IoThreadSpec {
    const given = integers(this.#members, ioThreadNames)
    this.#finish(id)
    for (const [name, value] of given) {
      if (value < 0) {
        throw blockError('EINVAL', `${name} value must be in range [0, 9223372036854775807]`)
      }
    }
    return { id, values: { ...ioThreadDefaults, ...Object.fromEntries(given) } }
  }

  #throttleGroup(id: string): ThrottleGroupSpec {
    const members = this.#members.object('limits')
    const limits = members === undefined ? new Map<string, number>() : integers(members, limitNames)
    members?.finish()
    const own = integers(this.#members, limitNames, 'x-')
    this.#finish(id)
    const values: Record<string, number> = {}
    for (const [name, value] of own) {
      if (value < 0) {
        throw blockError('EINVAL', 'Property values cannot be negative')
      }
      if (name.endsWith('-length') && value > maxBurstLength) {
        // No space between two words of it.
        throw blockError('EINVAL', `x-${name} value must be in therange [0, ${maxBurstLength}]`)
      }
      values[name] = value
    }
    for (const [name, value] of limits) {
      if (name.endsWith('-length') && value > maxBurstLength) {
        throw blockError('EINVAL', `${name} value must be in the range [0, ${maxBurstLength}]`)
      }
      // A length is kept in 32 bits without a sign.
      values[name] = name.endsWith('-length') && value < 0 ? value >>> 0 : value
    }
    return { id, values }
  }

  /** Every member must have been looked at, and the id be one. */
  #finish(id: string): void {
    this.#members.finish()
    if (!isIdentifier(id)) {
      throw identifierError()
    }
  }
}

/** The integers of these names that are there. */
function integers(members: MemberReader, names: readonly string[], prefix = ''): Map<string, number> {
  const given = new Map<string, number>()
  for (const name of names) {
    const value = members.integer(prefix + name)
    if (value !== undefined) {
      given.set(name, value)
    }
  }
  return given
}

/** The bytes of base64 text. Throws EINVAL `Base64 data contains invalid characters`. */
export function decodeBase64(text: string): Uint8Array {
  if (!/^[A-Za-z0-9+/=\n]*$/.test(text)) {
    throw blockError('EINVAL', 'Base64 data contains invalid characters')
  }
  const bits = text.replace(/[=\n]/g, '')
  return Uint8Array.from(atob(bits.slice(0, bits.length - (bits.length % 4 === 1 ? 1 : 0))), (c) =>
    c.charCodeAt(0),
  )
}
