import { blockError } from '../errors/index.js'
import type { HostSockets } from '../host/index.js'
import type { QmpClient } from '../qmp/index.js'

/** Where a QMP monitor listens: the path of a Unix socket, or a TCP port. */
export type QmpAddress =
  | string
  | { readonly path: string }
  | { readonly host?: string; readonly port: number }

export interface ConnectOptions {
  /** Ask for out-of-band execution. */
  readonly oob?: boolean
  readonly signal?: AbortSignal | undefined
}

/**
 * Connects to a QMP monitor, of this package's storage daemon or of any program of QEMU.
 *
 * @throws BlockError if nobody listens there, or nobody who speaks QMP
 */
export async function connectMonitor(
  sockets: HostSockets | undefined,
  address: QmpAddress,
  options: ConnectOptions = {},
): Promise<QmpClient> {
  if (sockets === undefined) {
    throw blockError('ENOTSUP', 'Sockets are not available here')
  }
  // Most users of the library never need it, nor the schema that comes with it.
  const client = await import('../qmp/client.js')
  const where = typeof address === 'string' ? { path: address } : address
  return await client.QmpClient.connect(
    'path' in where
      ? { type: 'unix', path: where.path }
      : { type: 'inet', host: where.host ?? 'localhost', port: where.port },
    { sockets, ...options },
  )
}
