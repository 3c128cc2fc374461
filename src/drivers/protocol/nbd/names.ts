import { blockError } from '../../../errors/index.js'
import type { SocketAddress } from '../../../host/index.js'
import { defaultPort } from '../../../nbd/index.js'
import { OptionDict } from '../../../options/index.js'

function invalid(): Error {
  return blockError('EINVAL', 'No valid URL specified')
}

/** `%XX` of a URL; a `%` that begins nothing stays. */
function unescapeUrl(text: string): string {
  const bytes: number[] = []
  const encoded = new TextEncoder().encode(text)
  for (let i = 0; i < encoded.length; i++) {
    const hex = String.fromCharCode(encoded[i + 1] ?? 0, encoded[i + 2] ?? 0)
    if (encoded[i] === 0x25 && /^[\da-fA-F]{2}$/.test(hex)) {
      bytes.push(Number.parseInt(hex, 16))
      i += 2
    } else {
      bytes.push(encoded[i] as number)
    }
  }
  return new TextDecoder().decode(Uint8Array.from(bytes))
}

function parseUrl(name: string): OptionDict {
  const match = /^(nbd|nbd\+tcp|nbd\+unix):(?:\/\/([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#.*)?$/.exec(name)
  if (match === null) {
    throw invalid()
  }
  const [, scheme, authority, path = '', query] = match
  const options = new OptionDict()
  const exportName = unescapeUrl(path.replace(/^\/+/, ''))
  if (exportName !== '') {
    options.set('export', exportName)
  }
  const parameters = (query ?? '').split(/[&;]/).filter((part) => part !== '')
  if (scheme === 'nbd+unix') {
    const [socket, ...others] = parameters
    if ((authority ?? '') !== '' || others.length > 0 || !socket?.startsWith('socket=')) {
      throw invalid()
    }
    options.set('server.type', 'unix')
    options.set('server.path', unescapeUrl(socket.slice('socket='.length)))
    return options
  }
  const place = /^(?:[^@]*@)?(\[[^\]]*\]|[^:[\]]*)(?::(\d*))?$/.exec(authority ?? '')
  const [, host = '', port = ''] = place ?? []
  if (place === null || host === '' || parameters.length > 0 || Number(port) > 65535) {
    throw invalid()
  }
  options.set('server.type', 'inet')
  options.set('server.host', unescapeUrl(host.replace(/^\[|\]$/g, '')))
  options.set('server.port', port === '' ? String(defaultPort) : String(Number(port)))
  return options
}

/**
 * Takes a file name apart: `nbd://host:port/export`, `nbd+tcp://…`, `nbd+unix:///export?socket=path`, and
 * the older `nbd:host:port[:exportname=…]` and `nbd:unix:path[:exportname=…]`.
 *
 * @throws BlockError EINVAL with QEMU's text
 */
export function parseNbdName(name: string): OptionDict {
  if (name.includes('://') || /^nbd(?:\+tcp|\+unix):/.test(name) || name.startsWith('nbd:/')) {
    return parseUrl(name)
  }
  const options = new OptionDict()
  const rest = name.slice('nbd:'.length)
  const marker = rest.indexOf(':exportname=')
  const place = marker < 0 ? rest : rest.slice(0, marker)
  if (marker >= 0) {
    const exportName = rest.slice(marker + ':exportname='.length)
    if (exportName === '') {
      return options
    }
    options.set('export', exportName)
  }
  if (place === '') {
    return options
  }
  if (place.startsWith('unix:')) {
    options.set('server.type', 'unix')
    options.set('server.path', place.slice('unix:'.length))
    return options
  }
  const match = /^(\[[^\]]*\]|[^:]*):([^:,]+)(?:,.*)?$/.exec(place)
  if (match === null) {
    throw blockError('EINVAL', `error parsing address '${place}'`)
  }
  const [, host = '', port = ''] = match
  options.set('server.type', 'inet')
  options.set('server.host', host.replace(/^\[|\]$/g, ''))
  options.set('server.port', port)
  return options
}

/** Where the server is, as the options say it: `server.*`, or `path`, or `host` and `port`. */
export interface NbdPlace {
  readonly address: SocketAddress
  /** The plain name of an export there. */
  nameOf(exportName: string): string
}

function unixPlace(path: string): NbdPlace {
  return {
    address: { type: 'unix', path },
    nameOf: (one) => (one === '' ? `nbd+unix://?socket=${path}` : `nbd+unix:///${one}?socket=${path}`),
  }
}

function inetPlace(host: string, port: string): NbdPlace {
  const number = Number(port)
  if (!/^\d+$/.test(port) || number > 65535) {
    const why = 'Servname not supported for ai_socktype'
    throw blockError('EINVAL', `address resolution failed for ${host}:${port}: ${why}`)
  }
  return {
    address: { type: 'inet', host, port: number },
    nameOf: (one) => (one === '' ? `nbd://${host}:${port}` : `nbd://${host}:${port}/${one}`),
  }
}

/**
 * Takes the address out of the options.
 *
 * @throws BlockError EINVAL with QEMU's text
 */
export function takePlace(
  options: OptionDict,
  legacy: { host?: string; port?: string; path?: string },
): NbdPlace {
  const server = options.takeSubtree('server.')
  const { host, port, path } = legacy
  if (server.size > 0) {
    if (host !== undefined || port !== undefined || path !== undefined) {
      throw blockError('EINVAL', "Cannot use 'server' and path/host/port at the same time")
    }
    return takeServer(server)
  }
  if (path !== undefined) {
    if (host !== undefined) {
      throw blockError('EINVAL', 'path and host may not be used at the same time')
    }
    return unixPlace(path)
  }
  if (host === undefined) {
    throw blockError('EINVAL', 'NBD server address missing')
  }
  return inetPlace(host, port ?? String(defaultPort))
}

/** Members of an inet address that make no difference to a client here. */
const inetHints = ['numeric', 'to', 'ipv4', 'ipv6', 'keep-alive', 'mptcp']

function takeServer(server: OptionDict): NbdPlace {
  const member = (name: string): string => {
    const value = server.getString(name)
    server.delete(name)
    if (value === undefined) {
      throw blockError('EINVAL', `Parameter '${name}' is missing`)
    }
    return value
  }
  const type = member('type')
  let place: NbdPlace
  switch (type) {
    case 'unix':
      place = unixPlace(member('path'))
      for (const name of ['abstract', 'tight']) {
        server.delete(name)
      }
      break
    case 'inet': {
      const host = member('host')
      place = inetPlace(host, member('port'))
      for (const name of inetHints) {
        server.delete(name)
      }
      break
    }
    case 'fd': {
      const text = member('str')
      if (!/^\d+$/.test(text)) {
        throw blockError('EINVAL', `Parameter 'str' expects a file descriptor number`)
      }
      place = { address: { type: 'fd', fd: Number(text) }, nameOf: () => '' }
      break
    }
    case 'vsock':
      throw blockError('ENOTSUP', 'vsock addresses are not supported')
    default:
      throw blockError('EINVAL', `Parameter 'type' does not accept value '${type}'`)
  }
  const [left] = server.keys()
  if (left !== undefined) {
    throw blockError('EINVAL', `Parameter '${left}' is unexpected`)
  }
  return place
}
