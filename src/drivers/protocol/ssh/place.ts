import { blockError } from '../../../errors/index.js'
import type { HostKeyCheck, SshPlace } from '../../../host/index.js'
import { OptionDict, takeOptions } from '../../../options/index.js'
import { sshOptions } from './options.js'

/**
 * Takes `ssh://[user@]host[:port]/path[?host_key_check=…]` apart.
 *
 * @throws BlockError EINVAL with QEMU's text
 */
export function parseSshName(name: string): OptionDict {
  const match = /^ssh:\/\/(?:([^@/?#]*)@)?(\[[^\]]*\]|[^:/?#]*)(?::(\d*))?([^?#]*)(?:\?([^#]*))?/.exec(name)
  const [, user = '', host = '', port = '', path = '', query = ''] = match ?? []
  if (host === '') {
    throw blockError('EINVAL', 'missing hostname in URI')
  }
  if (path === '') {
    throw blockError('EINVAL', 'missing remote path in URI')
  }
  const options = new OptionDict()
  if (user !== '') {
    options.set('user', decoded(user))
  }
  options.set('server.host', decoded(host.replace(/^\[|\]$/g, '')))
  options.set('server.port', port === '' ? '22' : String(Number(port)))
  options.set('path', decoded(path))
  for (const parameter of query.split(/[&;]/)) {
    const [key, value] = parameter.split(/=(.*)/s)
    if (key === 'host_key_check' && value !== undefined) {
      options.set('host_key_check', decoded(value))
    }
  }
  return options
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    // Bytes that are no text, or a `%` that begins nothing.
    return text
  }
}

/** A file on a server, as the options say it. */
export interface SshTarget {
  readonly place: SshPlace
  readonly path: string
  /** Plain name of it, once it is known who is logged in. */
  nameFor(user: string): string
}

/**
 * Takes the address and the path out of the options.
 *
 * @throws BlockError EINVAL with QEMU's text
 */
export function takeTarget(options: OptionDict): SshTarget {
  const given = takeOptions(options, sshOptions)
  const server = options.takeSubtree('server.')
  const check = options.takeSubtree('host-key-check.')
  if (given.host === undefined && given.port !== undefined) {
    throw blockError('EINVAL', 'port may not be used without host')
  }
  if (given.host !== undefined) {
    server.set('host', given.host)
    server.set('port', given.port ?? '22')
  }
  if (server.size === 0) {
    throw blockError('EINVAL', "Parameter 'server' is missing")
  }
  const host = take(server, 'host', 'server.')
  const port = take(server, 'port', 'server.')
  for (const hint of ['numeric', 'to', 'ipv4', 'ipv6', 'keep-alive', 'mptcp']) {
    server.delete(hint)
  }
  nothingLeft(server, 'server.')
  const hostKey = given.host_key_check === undefined ? takeCheck(check) : parseCheck(given.host_key_check)
  if (given.path === undefined) {
    throw blockError('EINVAL', "Parameter 'path' is missing")
  }
  if (!/^\d+$/.test(port) || Number(port) > 65535) {
    throw blockError('EINVAL', 'Use only numeric port value')
  }
  nothingLeft(options, '')
  const { path } = given
  const query = given.host_key_check === undefined ? '' : `?host_key_check=${given.host_key_check}`
  return {
    place: { host, port: Number(port), user: given.user, hostKey },
    path,
    nameFor: (user) => `ssh://${user}@${host}:${port}${path}${query}`,
  }
}

function take(options: OptionDict, name: string, prefix: string): string {
  const value = options.getString(name)
  options.delete(name)
  if (value === undefined) {
    throw blockError('EINVAL', `Parameter '${prefix}${name}' is missing`)
  }
  return value
}

function nothingLeft(options: OptionDict, prefix: string): void {
  for (const [name] of options.entries()) {
    throw blockError('EINVAL', `Parameter '${prefix}${name}' is unexpected`)
  }
}

function takeCheck(check: OptionDict): HostKeyCheck {
  if (check.size === 0) {
    return { mode: 'known_hosts' }
  }
  const prefix = 'host-key-check.'
  const mode = take(check, 'mode', prefix)
  switch (mode) {
    case 'none':
    case 'known_hosts':
      nothingLeft(check, prefix)
      return { mode }
    case 'hash': {
      const type = take(check, 'type', prefix)
      const hash = take(check, 'hash', prefix)
      nothingLeft(check, prefix)
      if (type !== 'md5' && type !== 'sha1' && type !== 'sha256') {
        throw blockError('EINVAL', `Parameter 'type' does not accept value '${type}'`)
      }
      return { mode, type, hash }
    }
    default:
      throw blockError('EINVAL', `Parameter 'mode' does not accept value '${mode}'`)
  }
}

/** The one-word form: `no`, `yes`, or `md5:…`, `sha1:…`, `sha256:…`. */
function parseCheck(text: string): HostKeyCheck {
  if (text === 'no') {
    return { mode: 'none' }
  }
  if (text === 'yes') {
    return { mode: 'known_hosts' }
  }
  const match = /^(md5|sha1|sha256):(.*)$/s.exec(text)
  if (match === null) {
    throw blockError('EINVAL', `unknown host_key_check setting (${text})`)
  }
  return { mode: 'hash', type: match[1] as 'md5' | 'sha1' | 'sha256', hash: match[2] ?? '' }
}
