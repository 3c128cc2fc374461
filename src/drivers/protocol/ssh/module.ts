import { blockError } from '../../../errors/index.js'
import type {
  CreateContext,
  DriverModule,
  DriverState,
  OpenContext,
  TruncateOptions,
} from '../../../graph/index.js'
import type { Host, HostSsh, SftpFile } from '../../../host/index.js'
import type { DirectPath, ExtentSink, FlushPath, IoNode } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import { parseSshName, takeTarget } from './place.js'

class SshState implements DriverState, DirectPath {
  readonly direct = this
  readonly flushPath: FlushPath
  readonly variableLength = true
  readonly hasZeroInit: boolean
  readonly #node: IoNode
  readonly #host: Host
  readonly #file: SftpFile
  readonly #server: string
  readonly #name: string
  #length: number
  #warned = false

  constructor(node: IoNode, host: Host, file: SftpFile, { server, name }: { server: string; name: string }) {
    this.#node = node
    this.#host = host
    this.#file = file
    this.#server = server
    this.#name = name
    this.#length = file.size
    this.hasZeroInit = file.isRegular
    this.flushPath = { flushToDisk: () => this.#flush() }
  }

  get length(): number {
    return this.#length
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.#file.read(offset, bytes, buffer, bufferOffset)
  }

  async write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    await this.#file.write(offset, bytes, buffer, bufferOffset)
    this.#length = Math.max(this.#length, offset + bytes)
  }

  status(offset: number, bytes: number, _want: 'zero' | 'allocation', out: ExtentSink): Wait {
    out.data(bytes, this.#node, offset, 0)
    return undefined
  }

  async #flush(): Promise<void> {
    if (!(await this.#file.sync()) && !this.#warned) {
      this.#warned = true
      this.#host.warn(`warning: ssh server ${this.#server} does not support fsync`)
      this.#host.warn('to support fsync, you need OpenSSH >= 6.3')
    }
  }

  async truncate(length: number, { exact, preallocation }: TruncateOptions): Promise<void> {
    if (preallocation !== 'off') {
      throw blockError('ENOTSUP', `Unsupported preallocation mode '${preallocation}'`)
    }
    if (length < this.#length) {
      if (exact) {
        throw blockError('ENOTSUP', 'ssh driver does not support shrinking files')
      }
      return
    }
    if (length > this.#length) {
      await grow(this.#file, length)
      this.#length = length
    }
  }

  exactFilename(): string {
    return this.#name
  }

  async close(): Promise<void> {
    await this.#file.close()
  }
}

/** A zero at the new end makes the file longer, whatever else the server can do. */
async function grow(file: SftpFile, length: number): Promise<void> {
  await file.write(length - 1, 1, new Uint8Array(1), 0)
}

function sshOf(host: Host): HostSsh {
  if (host.ssh === undefined) {
    throw blockError('ENOTSUP', 'SSH is not available here')
  }
  return host.ssh
}

async function open({ host, node, options, flags }: OpenContext): Promise<DriverState> {
  const { place, path, nameFor } = takeTarget(options)
  const file = await sshOf(host).open(place, path, { write: flags.write, create: false })
  return new SshState(node, host, file, { server: `${place.host}:${place.port}`, name: nameFor(file.user) })
}

async function create({ host, filename, options }: CreateContext): Promise<void> {
  const { place, path } = takeTarget(parseSshName(filename))
  const file = await sshOf(host).open(place, path, { write: true, create: true })
  try {
    const size = Number(options.size ?? 0)
    if (size > 0) {
      await grow(file, size)
    }
  } finally {
    await file.close()
  }
}

export const sshModule: DriverModule = { open, create }
