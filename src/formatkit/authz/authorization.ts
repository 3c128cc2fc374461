import { blockError, isBlockError } from '../../errors/index.js'
import type { BlockLayer, UserObject } from '../../graph/index.js'
import {
  type AuthorizationList,
  type AuthorizationSpec,
  MemberReader,
  parseJson,
  readAuthorizationList,
} from '../../options/index.js'

/** Longest file of rules that is read, bytes. */
const maxFileBytes = 1 << 20

/** Says who may use a server. */
export class Authorization implements UserObject {
  readonly type: AuthorizationSpec['type']
  readonly id: string
  readonly spec: AuthorizationSpec
  /** The rules as they are now. */
  readonly #list: () => AuthorizationList

  constructor(spec: AuthorizationSpec, list: () => AuthorizationList) {
    this.type = spec.type
    this.id = spec.id
    this.spec = spec
    this.#list = list
  }

  /** @param identity a name in the form of whoever has checked it, such as the distinguished name of a certificate */
  isAllowed(identity: string): boolean {
    const { allow, rules } = this.#list()
    const rule = rules.find(({ match, format }) =>
      format === 'glob' ? isGlobMatch(match, identity) : match === identity,
    )
    return rule?.allow ?? allow
  }
}

/**
 * Whether `pattern`, in which `*` stands for any characters and `?` for one, fits the whole of `text`. Takes time
 * in proportion to both lengths, whatever the pattern.
 */
export function isGlobMatch(pattern: string, text: string): boolean {
  const wanted = [...pattern]
  const given = [...text]
  let at = 0
  let star = -1
  /** What the last star takes ends here. */
  let taken = 0
  for (let i = 0; i < given.length; ) {
    if (wanted[at] === '*') {
      star = at++
      taken = i
    } else if (at < wanted.length && (wanted[at] === '?' || wanted[at] === given[i])) {
      at++
      i++
    } else if (star >= 0) {
      at = star + 1
      i = ++taken
    } else {
      return false
    }
  }
  while (wanted[at] === '*') {
    at++
  }
  return at === wanted.length
}

/** @throws BlockError `Unable to read '%s': %s` and what is wrong with the contents */
function readList(layer: BlockLayer, filename: string): AuthorizationList {
  let bytes: Uint8Array
  try {
    bytes = layer.host.files.readWhole(filename, maxFileBytes)
  } catch (error) {
    throw isBlockError(error)
      ? blockError(error.code, `Unable to read '${filename}': ${error.message}`, { cause: error })
      : error
  }
  const value = parseJson(new TextDecoder().decode(bytes))
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw blockError('EINVAL', `File '${filename}' must contain a JSON object`)
  }
  const members = new MemberReader(value, true)
  const list = readAuthorizationList(members)
  members.finish()
  return list
}

const nobody: AuthorizationList = { allow: false, rules: [] }

/**
 * Defines an object in the layer. A file of rules is read now and, with `refresh`, whenever somebody is asked for; while it
 * cannot be read nobody is let in.
 *
 * @throws BlockError with QEMU's text
 */
export function addAuthorization(layer: BlockLayer, spec: AuthorizationSpec): void {
  let list: () => AuthorizationList
  if (spec.type === 'authz-list-file') {
    const first = readList(layer, spec.filename)
    list = () => {
      if (!spec.refresh) {
        return first
      }
      try {
        return readList(layer, spec.filename)
      } catch (error) {
        if (!isBlockError(error)) {
          throw error
        }
        layer.host.warn(`warning: ${error.message}`)
        return nobody
      }
    }
  } else {
    const only: AuthorizationList =
      spec.type === 'authz-list'
        ? spec.list
        : { allow: false, rules: [{ match: spec.identity, allow: true }] }
    list = () => only
  }
  layer.objects.add(new Authorization(spec, list))
}

/**
 * What a TLS session asks with the name of a peer's certificate. The object is looked up then, as in QEMU.
 *
 * @returns a function that throws a BlockError with QEMU's text for who is not let in
 */
export function authorizeBy(layer: BlockLayer, id: string): (peer: string) => void {
  return (peer) => {
    const object = layer.objects.find(id)
    if (object === undefined) {
      throw blockError('EPERM', `Cannot find QAuthZ object ID ${id}`)
    }
    if (!(object instanceof Authorization)) {
      throw blockError('EPERM', `Object '${id}' is not a QAuthZ subclass`)
    }
    if (!object.isAllowed(peer)) {
      throw blockError('EPERM', `TLS x509 authz check for ${peer} is denied`)
    }
  }
}
