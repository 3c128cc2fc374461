import { blockError, isBlockError } from '../errors/index.js'
import { NbdExport, NbdServer } from '../exports/index.js'
import { authorizeBy } from '../formatkit/authz/index.js'
import { findTlsCredentials } from '../formatkit/tls/index.js'
import { type BlockLayer, Perm } from '../graph/index.js'
import type { SocketAddress } from '../host/index.js'
import { throwIfAborted } from '../image/index.js'
import type { Image } from './image.js'

/** Where {@link serve} listens: a Unix socket's path, or a TCP port on this machine or, with `host`, elsewhere. */
export type ServeAddress =
  | { readonly path: string }
  | { readonly port: number; readonly host?: string | undefined }

export interface ServeOptions {
  readonly listen: ServeAddress
  /** Name of the export; default: the empty name, which clients ask for if they have no wish. */
  readonly name?: string | undefined
  readonly description?: string | undefined
  /** Clients may not write. Default: as the image is open. */
  readonly readOnly?: boolean | undefined
  /** Every write is on stable storage when it is answered. Default false: clients flush. */
  readonly writeThrough?: boolean | undefined
  /** Dirty bitmaps that clients may read, by name. */
  readonly bitmaps?: readonly string[] | undefined
  /** Offer `qemu:allocation-depth`. */
  readonly allocationDepth?: boolean | undefined
  /** Clients at the same time; others wait. 0: any number. Default 100. */
  readonly maxConnections?: number | undefined
  /** Id of credentials (`tls-creds-x509`, `tls-creds-psk`) of the image's layer; clients then have to use TLS. */
  readonly tlsCredentials?: string | undefined
  /** Id of an object (`authz-simple`, `authz-list`, `authz-list-file`) that says which clients' certificates are let in. */
  readonly tlsAuthorization?: string | undefined
  /** Ends the serving; {@link Serving.closed} resolves then. */
  readonly signal?: AbortSignal | undefined
  /** Hears why a client was disconnected. Default: nobody does. */
  readonly onClientError?: ((text: string) => void) | undefined
}

/** An image that is being served. The image stays the caller's, who closes it afterwards. */
export interface Serving extends AsyncDisposable {
  /** A name that clients of QEMU and libnbd take. */
  readonly uri: string
  /** The TCP port, also if 0 was asked for; undefined for Unix sockets. */
  readonly port: number | undefined
  /** Clients at the moment. */
  readonly connections: number
  /** Resolves when serving has ended. */
  readonly closed: Promise<void>
  /** Ends the serving: requests in flight are finished, clients disconnected. May be called again. */
  close(): Promise<void>
}

/**
 * Offers an open image to NBD clients.
 *
 * @throws BlockError with QEMU's text: `Failed to bind socket to %s: …`, `Cannot export read-only node as writable`
 */
export async function serve(image: Image, options: ServeOptions): Promise<Serving> {
  const { layer } = image.node
  const { signal, listen } = options
  throwIfAborted(signal)
  const { sockets, clock } = layer.host
  if (sockets === undefined) {
    throw blockError('ENOTSUP', 'Sockets are not available here')
  }
  const name = options.name ?? ''
  const tls = tlsOf(layer, options)
  const writable = !(options.readOnly ?? image.readOnly)
  // An image that is open for writing shares that with nobody; with the clients it does.
  const { backend } = image
  const { perm, shared } = backend
  if (writable) {
    await backend.setPermissions(perm, shared | Perm.write)
  }
  const unshare = async (): Promise<void> => {
    if (writable && backend.root !== undefined) {
      await backend.setPermissions(perm, shared)
    }
  }
  const exported = await NbdExport.create(layer, image.node, {
    name,
    ...(options.description === undefined ? {} : { description: options.description }),
    writable,
    writeThrough: options.writeThrough ?? false,
    bitmaps: options.bitmaps ?? [],
    allocationDepth: options.allocationDepth ?? false,
    multiConn: options.maxConnections !== 1,
  }).catch(async (error: unknown) => {
    await unshare()
    throw error
  })
  const server = new NbdServer({
    sockets,
    clock,
    tls,
    maxConnections: options.maxConnections,
    report: options.onClientError,
  })
  let bound: SocketAddress
  try {
    server.add(exported)
    bound = await server.listen(
      'path' in listen
        ? { type: 'unix', path: listen.path }
        : { type: 'inet', host: listen.host ?? 'localhost', port: listen.port },
    )
  } catch (error) {
    await server.close()
    await exported.close()
    await unshare()
    throw error
  }
  return new ImageServing(server, exported, unshare, bound, signal)
}

function tlsOf(layer: BlockLayer, { tlsCredentials, tlsAuthorization }: ServeOptions) {
  if (tlsCredentials === undefined) {
    return undefined
  }
  const authorize = tlsAuthorization === undefined ? undefined : authorizeBy(layer, tlsAuthorization)
  return findTlsCredentials(layer, tlsCredentials, 'server').session({ authorize })
}

class ImageServing implements Serving {
  readonly uri: string
  readonly port: number | undefined
  readonly closed: Promise<void>
  readonly #server: NbdServer
  readonly #exported: NbdExport
  readonly #unshare: () => Promise<void>
  #closing: Promise<void> | undefined = undefined
  #ended: () => void = () => undefined

  constructor(
    server: NbdServer,
    exported: NbdExport,
    unshare: () => Promise<void>,
    address: SocketAddress,
    signal: AbortSignal | undefined,
  ) {
    this.#server = server
    this.#exported = exported
    this.#unshare = unshare
    this.port = address.type === 'inet' ? address.port : undefined
    this.uri = uriOf(address, exported.name)
    this.closed = new Promise((resolve) => {
      this.#ended = resolve
    })
    const stop = (): void => {
      this.close().catch((error: unknown) => {
        if (!isBlockError(error)) {
          throw error
        }
      })
    }
    signal?.addEventListener('abort', stop, { once: true })
    void this.closed.then(() => signal?.removeEventListener('abort', stop))
    server.start()
  }

  get connections(): number {
    return this.#server.connections
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    try {
      await this.#server.close()
      await this.#exported.close()
      await this.#unshare()
    } finally {
      this.#ended()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

function uriOf(address: SocketAddress, name: string): string {
  const path = encodeURIComponent(name)
  if (address.type === 'unix') {
    return `nbd+unix:///${path}?socket=${address.path}`
  }
  if (address.type === 'fd') {
    return ''
  }
  const host = address.host.includes(':') ? `[${address.host}]` : address.host
  return `nbd://${host}:${address.port}/${path}`
}
