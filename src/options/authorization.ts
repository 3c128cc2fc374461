import type { MemberReader } from './member-reader.js'

const policies = ['deny', 'allow'] as const
const formats = ['exact', 'glob'] as const

/** QAPI's `QAuthZListRule`: what it says of identities that `match` fits. */
export interface AuthorizationRule {
  readonly match: string
  readonly allow: boolean
  /** `glob`: `*` and `?` in `match` stand for any characters and for one. Default `exact`. */
  readonly format?: (typeof formats)[number]
}

/** The first rule that fits decides, and where none does, `allow`. */
export interface AuthorizationList {
  readonly allow: boolean
  readonly rules: readonly AuthorizationRule[]
}

/** Objects of types `authz-*`: who may use a server. */
export type AuthorizationSpec =
  | { readonly type: 'authz-simple'; readonly id: string; readonly identity: string }
  | { readonly type: 'authz-list'; readonly id: string; readonly list: AuthorizationList }
  | {
      readonly type: 'authz-list-file'
      readonly id: string
      /** JSON with the members of `authz-list`. */
      readonly filename: string
      /** Whether changes of the file count. */
      readonly refresh: boolean
    }

/** What `help` says of these types. */
export function authorizationHelp(type: unknown): readonly string[] | undefined {
  switch (type) {
    case 'authz-simple':
      return ['authz-simple options:', '  identity=<string>']
    case 'authz-list':
      return ['authz-list options:', '  policy=<QAuthZListPolicy>', '  rules=<QAuthZListRule>']
    case 'authz-list-file':
      return ['authz-list-file options:', '  filename=<string>', '  refresh=<bool>']
    default:
      return undefined
  }
}

/** Reads the members of a list. @throws BlockError with QEMU's text */
export function readAuthorizationList(members: MemberReader): AuthorizationList {
  const allow = members.choice('policy', policies) === 'allow'
  const rules = (members.objects('rules') ?? []).map((rule) => {
    const match = rule.required('match')
    rule.required('policy')
    const decided = rule.choice('policy', policies) === 'allow'
    const format = rule.choice('format', formats)
    rule.finish()
    return { match, allow: decided, ...(format === undefined ? {} : { format }) }
  })
  return { allow, rules }
}

/**
 * Reads the members of an object; undefined: there are no objects of this type. QAPI and QOM write one of the names differently
 * (`authz-listfile`), for which QEMU 7.2 makes no objects of it at all; both are good here.
 *
 * @throws BlockError with QEMU's text
 */
export function readAuthorization(
  members: MemberReader,
  type: string,
  id: string,
): AuthorizationSpec | undefined {
  switch (type) {
    case 'authz-simple':
      return { type, id, identity: members.required('identity') }
    case 'authz-list':
      return { type, id, list: readAuthorizationList(members) }
    case 'authz-list-file':
    case 'authz-listfile': {
      const filename = members.required('filename')
      return { type: 'authz-list-file', id, filename, refresh: members.flag('refresh') ?? true }
    }
    default:
      members.required('service')
      return undefined
  }
}
