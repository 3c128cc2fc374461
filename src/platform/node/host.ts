import type { Host, HostSockets } from '../../host/index.js'
import { type AioMode, aioModes } from './aio-backend.js'
import { nodeCiphers } from './ciphers.js'
import { NodeCodecs } from './codecs.js'
import type { IoPolicy } from './file.js'
import { NodeFiles } from './files.js'
import { libc } from './libc.js'
import { randomBytes } from './random.js'

/** memcmp; it takes any Uint8Array. */
const compareBytes = Buffer.prototype.compare

export interface NodeHostOptions {
  /** How file requests are carried out; default `auto`. */
  readonly io?: IoPolicy
  /**
   * Makes every file use this backend, the page cache's answers included except with `native`; default: the
   * environment variable `BLOCKGRAPH_AIO`, and without it what is fastest.
   */
  readonly aio?: AioMode
  /** Receives warnings for the user; default: standard error. */
  readonly warn?: (line: string) => void
  /** Receives output of drivers, such as what blkdebug tells; default: dropped. */
  readonly print?: (line: string) => void
  /** Ends the program after the line, for `Host.abort`; default: requests fail instead. */
  readonly abort?: (line: string) => void
  /** What I/O threads run, for programs that bundle this package: its file `dist/io-thread.js`. */
  readonly threadScript?: URL
}

/** The platform of Node.js: the local file system, zlib and zstd. */
export function createNodeHost(options: NodeHostOptions = {}): Host {
  const warn =
    options.warn ??
    ((line: string) => {
      process.stderr.write(`${line}\n`)
    })
  return {
    files: new NodeFiles(options.io ?? 'auto', options.aio ?? forcedAio(warn)),
    codecs: new NodeCodecs(),
    ciphers: nodeCiphers,
    threads: {
      // Few programs start a thread.
      start: async (name) => {
        const { NodeThreads } = await import('./worker/thread.js')
        return await new NodeThreads(options.threadScript).start(name)
      },
    },
    http: {
      client: async (clientOptions) => {
        const { openHttpClient } = await import('./http/client.js')
        return await openHttpClient(clientOptions)
      },
    },
    ssh: {
      open: async (place, path, mode) => {
        const { openSftpFile } = await import('./ssh/client.js')
        return await openSftpFile(place, path, mode)
      },
    },
    fuse: {
      user: process.getuid?.() ?? 0,
      group: process.getgid?.() ?? 0,
      mount: async (path, mountOptions) => {
        const { mountFuse } = await import('./fuse/mount.js')
        return await mountFuse(path, mountOptions)
      },
    },
    nbdDevices: {
      open: async (path) => {
        const { NodeNbdDevices } = await import('./nbd-devices.js')
        return new NodeNbdDevices().open(path)
      },
    },
    xml: { parse: async (document) => (await import('./xml.js')).nodeXml.parse(document) },
    sockets: lazySockets(options.io ?? 'auto'),
    pathStyle: process.platform === 'win32' ? 'win32' : 'posix',
    randomBytes,
    sameBytes: (a, aOffset, b, bOffset, bytes) =>
      compareBytes.call(a, b, bOffset, bOffset + bytes, aOffset, aOffset + bytes) === 0,
    warn,
    ...(options.abort === undefined ? {} : { abort: options.abort }),
    ...(options.print === undefined ? {} : { print: options.print }),
    // Only arm64 has a choice; elsewhere the question is not worth loading the binding.
    get pageSize() {
      return process.arch === 'arm64' ? (libc()?.pageSize ?? 4096) : 4096
    },
  }
}

function forcedAio(warn: (line: string) => void): AioMode | undefined {
  const word = process.env.BLOCKGRAPH_AIO
  if (word === undefined || word === '') {
    return undefined
  }
  const mode = aioModes.find((known) => known === word)
  if (mode === undefined) {
    warn(`BLOCKGRAPH_AIO: invalid parameter value: ${word}`)
  }
  return mode
}

/** Few programs reach the network: node:net comes with the first socket. */
function lazySockets(policy: IoPolicy): HostSockets {
  let sockets: Promise<HostSockets> | undefined
  const load = (): Promise<HostSockets> => {
    sockets ??= import('./sockets/sockets.js').then(({ NodeSockets }) => new NodeSockets(policy))
    return sockets
  }
  return {
    listen: async (address, listenOptions, accept) =>
      await (await load()).listen(address, listenOptions, accept),
    connect: async (address, connectOptions) => await (await load()).connect(address, connectOptions),
  }
}
