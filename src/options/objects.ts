import { blockError } from '../errors/index.js'
import { type JsonObject, type JsonValue, parseJson } from './json-parse.js'
import { parseKeyval } from './keyval.js'
import { identifierError, isIdentifier } from './opts-text.js'

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

/** What the text of `--object` asks for: an object, or a list of what there is. */
export type ObjectRequest =
  | { readonly kind: 'secret'; readonly secret: SecretSpec }
  | { readonly kind: 'help'; readonly lines: readonly string[] }

/** QEMU's other object types, which this package has no use for. */
const otherTypes = [
  'authz-list',
  'authz-list-file',
  'authz-pam',
  'authz-simple',
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
  'throttle-group',
  'tls-creds-anon',
  'tls-creds-psk',
  'tls-creds-x509',
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

/**
 * Parses the argument of `--object`: key-value text or JSON.
 *
 * @throws BlockError EINVAL with QEMU's text. What the object's data is worth is not looked at.
 */
export function parseObject(text: string): ObjectRequest {
  let value: JsonObject
  const isJson = text.startsWith('{')
  if (isJson) {
    value = parseJson(text) as JsonObject
  } else {
    const parsed = parseKeyval(text, 'qom-type')
    value = parsed.value
    if (parsed.help) {
      const lines =
        value['qom-type'] === 'secret' ? secretHelp : ['List of user creatable objects:', '  secret']
      return { kind: 'help', lines }
    }
  }
  return { kind: 'secret', secret: new ObjectReader(value, isJson).secret() }
}

/** Takes an object's members as the type's description has them; the order decides which error comes first. */
class ObjectReader {
  readonly #value: JsonObject
  readonly #isJson: boolean
  readonly #known = new Set<string>()

  constructor(value: JsonObject, isJson: boolean) {
    this.#value = value
    this.#isJson = isJson
  }

  secret(): SecretSpec {
    const type = this.#required('qom-type')
    if (type !== 'secret' && !otherTypes.includes(type)) {
      throw blockError('EINVAL', `Parameter 'qom-type' does not accept value '${type}'`)
    }
    const id = this.#required('id')
    if (type !== 'secret') {
      throw blockError('EINVAL', `invalid object type: ${type}`)
    }
    const hasLoaded = this.#boolean('loaded')
    const format = this.#optional('format') ?? 'raw'
    if (format !== 'raw' && format !== 'base64') {
      throw blockError('EINVAL', `Parameter 'format' does not accept value '${format}'`)
    }
    const keyId = this.#optional('keyid')
    const iv = this.#optional('iv')
    const data = this.#optional('data')
    const file = this.#optional('file')
    const [left] = Object.keys(this.#value).filter((key) => !this.#known.has(key))
    if (left !== undefined) {
      throw blockError('EINVAL', `Parameter '${left}' is unexpected`)
    }
    if (!isIdentifier(id)) {
      throw identifierError()
    }
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

  #member(key: string): JsonValue | undefined {
    this.#known.add(key)
    return Object.hasOwn(this.#value, key) ? this.#value[key] : undefined
  }

  /** Whether a boolean member is there. */
  #boolean(key: string): boolean {
    const member = this.#member(key)
    if (member === undefined) {
      return false
    }
    const isWord = typeof member === 'string' && /^(?:on|off|yes|no|true|false|y|n)$/.test(member)
    if (typeof member === 'boolean' ? !this.#isJson : !isWord) {
      throw blockError('EINVAL', `Parameter '${key}' expects 'on' or 'off'`)
    }
    return true
  }

  #optional(key: string): string | undefined {
    const member = this.#member(key)
    if (member === undefined || typeof member === 'string') {
      return member
    }
    throw blockError(
      'EINVAL',
      this.#isJson
        ? `Invalid parameter type for '${key}', expected: string`
        : `Parameters '${key}.*' are unexpected`,
    )
  }

  #required(key: string): string {
    const member = this.#optional(key)
    if (member === undefined) {
      throw blockError('EINVAL', `Parameter '${key}' is missing`)
    }
    return member
  }
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
