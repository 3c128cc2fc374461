import { blockError, errnoError, isBlockError } from '../../errors/index.js'
import type { Host, HostFile, SocketAddress } from '../../host/index.js'
import type { TypeOf } from '../schema/types.js'
import type { CharDevice } from './device.js'
import { FileChar, NullChar, RingBufferChar, StdioChar, type StdioStreams } from './simple.js'
import { SocketChar } from './socket.js'

export type ChardevBackend = TypeOf<'ChardevBackend'>

/** Backend types that exist here, as `query-chardev-backends` lists them. */
export const chardevBackends = ['memory', 'file', 'socket', 'stdio', 'ringbuf', 'null'] as const

const defaultRingBytes = 64 * 1024
/** A ring may not take more memory than that, bytes. */
const maxRingBytes = 64 * 1024 * 1024

/** The character devices of one process, by label. */
export class Chardevs {
  readonly #host: Host
  readonly #stdio: StdioStreams | undefined
  readonly #devices = new Map<string, CharDevice>()
  #stdioTaken = false

  /** @param stdio absent: there is none */
  constructor(host: Host, stdio?: StdioStreams) {
    this.#host = host
    this.#stdio = stdio
  }

  find(label: string): CharDevice | undefined {
    return this.#devices.get(label)
  }

  /** The newest first. */
  list(): CharDevice[] {
    return [...this.#devices.values()].reverse()
  }

  /** @throws BlockError with QEMU's text */
  async add(label: string, backend: ChardevBackend, waiting?: (where: string) => void): Promise<CharDevice> {
    if (this.#devices.has(label)) {
      throw blockError('EEXIST', `attempt to add duplicate property '${label}' to object (type 'container')`)
    }
    const device = await this.#create(label, backend, waiting)
    this.#devices.set(label, device)
    return device
  }

  async #create(
    label: string,
    backend: ChardevBackend,
    waiting?: (where: string) => void,
  ): Promise<CharDevice> {
    switch (backend.type) {
      case 'null':
        return new NullChar(label)
      case 'ringbuf':
      case 'memory':
        return ringBuffer(label, backend.data.size)
      case 'stdio': {
        if (this.#stdio === undefined) {
          throw blockError('ENOTSUP', 'cannot use stdio with -daemonize')
        }
        if (this.#stdioTaken) {
          throw blockError('EBUSY', 'cannot use stdio by multiple character devices')
        }
        this.#stdioTaken = true
        return new StdioChar(label, this.#stdio)
      }
      case 'file': {
        const { in: input, out, append } = backend.data
        if (input !== undefined) {
          throw blockError('ENOTSUP', 'input file not supported')
        }
        const file = await this.#openOutput(out, append === true)
        return new FileChar(label, file, append === true ? file.size() : 0)
      }
      case 'socket':
        return await this.#socket(label, backend.data, waiting)
      default:
        throw blockError('EINVAL', `'${backend.type}' is not a valid char driver name`)
    }
  }

  async #openOutput(path: string, append: boolean): Promise<HostFile> {
    try {
      return await this.#host.files.open(path, { write: true, create: true, truncate: !append })
    } catch (error) {
      throw isBlockError(error) ? errnoError(error.code, `Could not open '${path}'`) : error
    }
  }

  async #socket(
    label: string,
    data: TypeOf<'ChardevSocket'>,
    waiting?: (where: string) => void,
  ): Promise<CharDevice> {
    const { server = true, reconnect, wait } = data
    if (data['tls-creds'] !== undefined) {
      throw blockError('EINVAL', `No TLS credentials with id '${data['tls-creds']}'`)
    }
    if (data['tls-authz'] !== undefined) {
      throw blockError('EINVAL', "'tls_authz' option is only supported with TLS")
    }
    if (data.telnet === true || data.tn3270 === true || data.websocket === true) {
      throw blockError('ENOTSUP', 'Telnet and websocket protocols are not supported')
    }
    if (server && (reconnect ?? 0) > 0) {
      throw blockError('EINVAL', "'reconnect' option is incompatible with socket in server listen mode")
    }
    if (!server && wait !== undefined) {
      throw blockError('EINVAL', "'wait' option is incompatible with socket in client connect mode")
    }
    const { sockets } = this.#host
    if (sockets === undefined) {
      throw blockError('ENOTSUP', 'Sockets are not available here')
    }
    const address = legacyAddress(data.addr)
    return await SocketChar.create(
      { label, sockets, address, server, reconnect: reconnect ?? 0 },
      server && wait === true ? (waiting ?? (() => undefined)) : undefined,
    )
  }

  /** @throws BlockError with QEMU's text */
  /** Puts another device in the place of one that nobody uses; the old one stays if there can be no new one. */
  async replace(label: string, backend: ChardevBackend): Promise<void> {
    const device = await this.#create(label, backend, undefined)
    await this.remove(label)
    this.#devices.set(label, device)
  }

  async remove(label: string): Promise<void> {
    const device = this.#devices.get(label)
    if (device === undefined) {
      throw blockError('ENOENT', `Chardev '${label}' not found`)
    }
    if (device.frontend !== undefined) {
      throw blockError('EBUSY', `Chardev '${label}' is busy`)
    }
    this.#devices.delete(label)
    if (device.filename === 'stdio') {
      this.#stdioTaken = false
    }
    await device.close()
  }

  async closeAll(): Promise<void> {
    for (const [label, device] of this.#devices) {
      this.#devices.delete(label)
      await device.close()
    }
  }
}

function ringBuffer(label: string, size = defaultRingBytes): RingBufferChar {
  if (size <= 0 || size > 2 ** 53 || !Number.isInteger(Math.log2(size))) {
    throw blockError('EINVAL', 'size of ringbuf chardev must be power of two')
  }
  if (size > maxRingBytes) {
    throw blockError('ENOMEM', `size of ringbuf chardev must be at most ${maxRingBytes}`)
  }
  return new RingBufferChar(label, size)
}

/** An address as character devices take it. @throws BlockError with QEMU's text */
export function legacyAddress(address: TypeOf<'SocketAddressLegacy'>): SocketAddress {
  switch (address.type) {
    case 'unix':
      return socketAddress({ type: 'unix', ...address.data })
    case 'inet':
      return socketAddress({ type: 'inet', ...address.data })
    case 'fd':
      return socketAddress({ type: 'fd', ...address.data })
    default:
      return socketAddress({ type: 'vsock', ...address.data })
  }
}

/** A socket's address as the host takes it. @throws BlockError with QEMU's text */
export function socketAddress(address: TypeOf<'SocketAddress'>): SocketAddress {
  switch (address.type) {
    case 'unix':
      return { type: 'unix', path: address.path }
    case 'inet': {
      const port = Number(address.port)
      if (!/^\d+$/.test(address.port) || port > 65535) {
        throw blockError(
          'EINVAL',
          `address resolution failed for ${address.host}:${address.port}: Servname not supported for ai_socktype`,
        )
      }
      return { type: 'inet', host: address.host, port }
    }
    case 'fd':
      if (!/^\d+$/.test(address.str)) {
        throw blockError('EINVAL', `Unable to parse FD number ${address.str}`)
      }
      return { type: 'fd', fd: Number(address.str) }
    default:
      throw blockError('ENOTSUP', 'socket family AF_VSOCK unsupported')
  }
}
