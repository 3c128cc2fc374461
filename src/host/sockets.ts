import type { Wait } from '../sched/index.js'

/** Where a socket is. `fd` is an inherited descriptor (socket activation). */
export type SocketAddress =
  | { readonly type: 'unix'; readonly path: string }
  | { readonly type: 'inet'; readonly host: string; readonly port: number }
  | { readonly type: 'fd'; readonly fd: number }

/**
 * A connected stream. What it does is told through {@link onReadable}; nothing is read ahead of the
 * user, so that a peer cannot make us keep more than he asked for (beyond a small chunk).
 */
export interface HostSocket {
  /** Called when {@link read} may have something again, after it did not fill the buffer. Must not throw. */
  onReadable: (() => void) | undefined
  /**
   * The user waits for something that comes through the event loop, such as a disk: the platform then
   * does not sleep on sockets alone.
   */
  engaged: boolean
  /**
   * The user takes nothing for now, and is not told of anything. After setting it back he reads until
   * there is nothing.
   */
  paused: boolean
  /**
   * Takes what has arrived, at most `bytes`, into `buffer[offset, +bytes)`. Returns the number of bytes,
   * 0 at the end of the stream; undefined, or less than asked for: {@link onReadable} follows.
   * @throws BlockError when the connection failed
   */
  read(buffer: Uint8Array, offset: number, bytes: number): number | undefined
  /**
   * Sends the bytes after all others. Undefined: the kernel has them; otherwise the buffer must stay
   * untouched until the promise settles.
   * @throws BlockError when the connection failed
   */
  write(buffer: Uint8Array, offset: number, bytes: number): Wait
  /**
   * Goes over to TLS. Nothing may be in flight. The result takes the place of this socket.
   * @throws BlockError when the handshake or the check of the peer fails; the connection is closed then
   */
  startTls(session: TlsSession): Promise<HostSocket>
  /** Sends what was written and ends; idempotent. */
  end(): void
  /** Drops the connection at once; idempotent. */
  destroy(): void
}

/** One side of TLS: certificates, or keys known to both sides. Contents of PEM files. */
export interface TlsSession {
  readonly side: 'server' | 'client'
  readonly x509?: {
    readonly ca: Uint8Array
    readonly certificate?: Uint8Array | undefined
    readonly key?: Uint8Array | undefined
    /** Of the private key. */
    readonly passphrase?: string | undefined
    readonly crl?: Uint8Array | undefined
  }
  readonly psk?: {
    /** The key of a user; undefined: nobody of that name. */
    keyOf(user: string): Uint8Array | undefined
    /** Who a client says he is. */
    readonly user: string
  }
  /** Whether the other side must show a certificate that the CA has signed. */
  readonly verifyPeer: boolean
  /** Name that the server's certificate must be for; absent: none is looked at. */
  readonly hostname?: string | undefined
  /**
   * Asked by a server with the distinguished name of a client whose certificate is good, as GnuTLS writes it
   * (`C=GB,O=Acme,CN=client`). Throws a BlockError if this client is not let in.
   */
  readonly authorize?: ((peer: string) => void) | undefined
}

export interface HostListener {
  /** With the port that was chosen if 0 was asked for. */
  readonly address: SocketAddress
  /** Stops accepting; a Unix socket's file goes. */
  close(): Promise<void>
}

export interface ListenOptions {
  /** Connections that wait to be accepted. */
  readonly backlog?: number | undefined
}

export interface ConnectOptions {
  readonly signal?: AbortSignal | undefined
}

export interface HostSockets {
  /**
   * Calls `accept` with each connection.
   * @throws BlockError with QEMU's text
   */
  listen(
    address: SocketAddress,
    options: ListenOptions,
    accept: (socket: HostSocket) => void,
  ): Promise<HostListener>
  /** @throws BlockError with QEMU's text */
  connect(address: SocketAddress, options?: ConnectOptions): Promise<HostSocket>
}
