import { blockError } from '../../../errors/index.js'
import { lookupPassword } from '../../../formatkit/crypto/index.js'
import {
  applyAutoReadOnly,
  type BlockLayer,
  type DriverModule,
  type DriverState,
  nothingToReopen,
  type OpenContext,
  type ReopenContext,
  type ReopenPlan,
} from '../../../graph/index.js'
import type { HttpClient } from '../../../host/index.js'
import type { DirectPath, ExtentSink, IoNode } from '../../../io/index.js'
import { type OptionsOf, takeOptions } from '../../../options/index.js'
import { monotonicClock, type Wait } from '../../../sched/index.js'
import { httpOptions } from './options.js'
import { ReadAhead } from './read-ahead.js'
import { RemoteFile } from './remote-file.js'

/** Requests to one server at a time, as many as QEMU makes. */
const connections = 8
/** What is asked for at a time at most, bytes. */
const maxReadahead = 8 << 20
const maxTimeout = 10_000
const readOnlyText = 'curl driver does not support writes'

type HttpOptions = OptionsOf<typeof httpOptions>

class HttpState implements DriverState, DirectPath {
  readonly direct = this
  readonly length: number
  readonly #node: IoNode
  readonly #client: HttpClient
  readonly #file: RemoteFile
  readonly #cache: ReadAhead | undefined
  readonly #name: string | undefined

  constructor(
    node: IoNode,
    parts: { client: HttpClient; file: RemoteFile; readahead: number; name: string | undefined },
  ) {
    this.#node = node
    this.#client = parts.client
    this.#file = parts.file
    this.#name = parts.name
    this.length = parts.file.length
    this.#cache =
      parts.readahead === 0
        ? undefined
        : new ReadAhead(
            (...args) => parts.file.fetch(...args),
            this.length,
            Math.min(parts.readahead, maxReadahead),
          )
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    const inside = Math.max(0, Math.min(bytes, this.length - offset))
    if (inside < bytes) {
      // The node is rounded up to whole sectors.
      buffer.fill(0, bufferOffset + inside, bufferOffset + bytes)
    }
    if (inside === 0) {
      return undefined
    }
    if (this.#cache !== undefined) {
      return this.#cache.read(offset, inside, buffer, bufferOffset)
    }
    let at = bufferOffset
    return this.#file.fetch(offset, inside, (piece) => {
      buffer.set(piece, at)
      at += piece.length
    })
  }

  status(offset: number, bytes: number, _want: 'zero' | 'allocation', out: ExtentSink): Wait {
    out.data(bytes, this.#node, offset, 0)
    return undefined
  }

  prepareReopen({ readOnly }: ReopenContext): ReopenPlan {
    if (!readOnly) {
      throw blockError('EACCES', readOnlyText)
    }
    return nothingToReopen
  }

  exactFilename(): string | undefined {
    return this.#name
  }

  async close(): Promise<void> {
    this.#file.close()
    await this.#client.close()
  }
}

function passwordOf(layer: BlockLayer, id: string | undefined): string {
  if (id === undefined) {
    return ''
  }
  const bytes = lookupPassword(layer, id)
  try {
    return new TextDecoder().decode(bytes)
  } finally {
    bytes.fill(0)
  }
}

function basic(user: string, password: string): string {
  const bytes = new TextEncoder().encode(`${user}:${password}`)
  return `Basic ${btoa(String.fromCharCode(...bytes))}`
}

/** The URL without credentials, and the headers that they and the options ask for. */
function prepare(layer: BlockLayer, url: string, given: HttpOptions) {
  const headers: Record<string, string> = {}
  if (given.cookie !== undefined && given['cookie-secret'] !== undefined) {
    throw blockError('EINVAL', 'curl driver cannot handle both cookie and cookie secret')
  }
  const cookie = given.cookie ?? passwordOf(layer, given['cookie-secret'])
  if (cookie !== '') {
    headers.cookie = cookie
  }
  const place = new URL(url)
  const user = given.username ?? decodeURIComponent(place.username)
  const password =
    given['password-secret'] === undefined
      ? decodeURIComponent(place.password)
      : passwordOf(layer, given['password-secret'])
  if (user !== '' || password !== '') {
    headers.authorization = basic(user, password)
  }
  place.username = ''
  place.password = ''
  const proxyUser = given['proxy-username'] ?? ''
  const proxyPassword = passwordOf(layer, given['proxy-password-secret'])
  const proxy = proxyUser === '' && proxyPassword === '' ? undefined : basic(proxyUser, proxyPassword)
  return { url: place.href, headers, proxy }
}

/** Whether nothing but the URL matters to what is read. */
function isPlain(given: HttpOptions): boolean {
  return (
    given.sslverify !== false &&
    given.cookie === undefined &&
    given['cookie-secret'] === undefined &&
    given.username === undefined &&
    given['password-secret'] === undefined &&
    given['proxy-username'] === undefined &&
    given['proxy-password-secret'] === undefined
  )
}

async function open(context: OpenContext, name: 'http' | 'https'): Promise<DriverState> {
  applyAutoReadOnly(context, readOnlyText)
  const { host, layer, node, options } = context
  const given = takeOptions(options, httpOptions)
  const readahead = given.readahead ?? 256 * 1024
  if (readahead % 512 !== 0) {
    throw blockError('EINVAL', `HTTP_READAHEAD_SIZE ${readahead} is not a multiple of 512`)
  }
  const timeout = given.timeout ?? 5
  if (timeout < 0 || timeout > maxTimeout) {
    throw blockError('EINVAL', 'timeout parameter is too large or negative')
  }
  const { url } = given
  if (url === undefined) {
    throw blockError('EINVAL', "curl block driver requires an 'url' option")
  }
  if (!url.startsWith(`${name}://`)) {
    const text = `${name} curl driver cannot handle the URL '${url}' (does not start with '${name}://')`
    throw blockError('EINVAL', text)
  }
  if (!URL.canParse(url)) {
    throw blockError('EINVAL', 'CURL: Error opening file: URL using bad/illegal format or missing URL')
  }
  if (host.http === undefined) {
    throw blockError('ENOTSUP', 'Web servers are not available here')
  }
  const { url: place, headers, proxy } = prepare(layer, url, given)
  const client = await host.http.client({
    connections,
    timeout: timeout * 1000,
    verifyTls: given.sslverify ?? true,
    proxyAuthorization: proxy,
  })
  try {
    const file = await RemoteFile.open(place, { client, headers, clock: host.clock ?? monotonicClock })
    return new HttpState(node, { client, file, readahead, name: isPlain(given) ? url : undefined })
  } catch (error) {
    await client.close()
    throw error
  }
}

export const webModule = (name: 'http' | 'https'): DriverModule => ({
  open: (context) => open(context, name),
})
