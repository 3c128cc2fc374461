import { blockError, isBlockError, prefixed } from '../../errors/index.js'
import { NbdExport, NbdServer } from '../../exports/index.js'
import { authorizeBy } from '../../formatkit/authz/index.js'
import { findTlsCredentials } from '../../formatkit/tls/index.js'
import { Backend, type BlockLayer, type BlockNode } from '../../graph/index.js'
import type { SocketAddress, TlsSession } from '../../host/index.js'
import { showSnapshot } from '../../image/index.js'
import { defaultPort, listExports } from '../../nbd/index.js'
import { OptionDict, parseImageOptions } from '../../options/index.js'
import { type ToolContext, ToolExit } from '../context.js'
import { driverLine } from '../driver-line.js'
import { type ConnectedDevice, connectDevice, deviceSocket, disconnectDevice } from './device.js'
import { listText } from './list.js'
import {
  checkInheritedSockets,
  checkSettings,
  checkTlsSettings,
  messageOf,
  type NbdSettings,
  readSettings,
  type SettingsOutput,
} from './settings.js'

/** Connections that the kernel keeps for a server that takes any number. */
const manyConnections = 4096

/**
 * `qemu-nbd`: offers an image until its clients are gone or the user wants it to end. Nothing is thrown,
 * and nothing stays open.
 *
 * @param argv the arguments, without the program's name
 */
export async function run(argv: readonly string[], context: ToolContext): Promise<number> {
  const { program } = context
  let printed = false
  const stderr = (text: string): void => {
    printed = true
    context.stderr(text)
  }
  const layer = await context.createLayer((line) => stderr(driverLine(program, line)))
  const failed = (error: unknown): number => {
    if (error instanceof ToolExit) {
      return error.code
    }
    stderr(`${program}: ${messageOf(error)}\n`)
    if (isBlockError(error) && error.hint !== undefined) {
      stderr(`${error.hint}\n`)
    }
    return 1
  }
  let code: number
  try {
    code = await dispatch(argv, layer, context, stderr, () => printed)
  } catch (error) {
    code = failed(error)
  }
  try {
    await layer.closeAll()
  } catch (error) {
    code = failed(error)
  }
  return code
}

async function dispatch(
  argv: readonly string[],
  layer: BlockLayer,
  context: ToolContext,
  stderr: (text: string) => void,
  hasPrinted: () => boolean,
): Promise<number> {
  const { helpText, versionText } = await import('./help.js')
  const output: SettingsOutput = {
    program: context.program,
    write: (text) => context.stdout(text),
    stderr,
    helpText: () => helpText(context.program),
    versionText: () => versionText(context.program),
  }
  const settings = await readSettings(argv, layer, output)
  checkSettings(settings, output)
  checkInheritedSockets(settings, context.server?.inheritedSockets ?? 0)
  checkTlsSettings(settings)
  const tls = tlsSession(settings, layer)
  if (settings.list) {
    const { sockets } = layer.host
    if (sockets === undefined) {
      throw blockError('ENOTSUP', 'Sockets are not available here')
    }
    const socket = await sockets.connect(addressOf(settings, 0), { signal: context.signal })
    context.stdout(listText(await listExports(socket, tls)))
    return 0
  }
  if (settings.disconnect) {
    await disconnectDevice(settings.operands[0] as string, context, layer.host)
    return 0
  }
  const fork = settings.fork || (settings.device !== undefined && !settings.verbose)
  if (fork && context.server !== undefined && !context.server.isForked) {
    return await context.server.fork()
  }
  return await serve(settings, tls, layer, context, stderr, hasPrinted)
}

/** The credentials of `--tls-creds`. @throws BlockError with QEMU's text */
function tlsSession(settings: NbdSettings, layer: BlockLayer): TlsSession | undefined {
  const { tlsCreds, tlsAuthz, tlsHostname, list, bind = '0.0.0.0' } = settings
  if (tlsCreds === undefined) {
    return undefined
  }
  try {
    const credentials = findTlsCredentials(layer, tlsCreds, list ? 'client' : 'server')
    if (list) {
      return credentials.session({ hostname: tlsHostname ?? bind })
    }
    return credentials.session({
      authorize: tlsAuthz === undefined ? undefined : authorizeBy(layer, tlsAuthz),
    })
  } catch (error) {
    throw prefixed(error, 'Failed to get TLS creds: ')
  }
}

/** Where the command line has the server listen. @throws BlockError for a port that is none */
function addressOf(settings: NbdSettings, inherited: number): SocketAddress {
  const { socket, device, bind = '0.0.0.0', port } = settings
  if (inherited > 0) {
    return { type: 'fd', fd: 3 }
  }
  if (socket !== undefined) {
    return { type: 'unix', path: socket }
  }
  if (device !== undefined) {
    return deviceSocket(device)
  }
  const number = port === undefined ? defaultPort : Number(port)
  if (port !== undefined && (!/^\d+$/.test(port) || number > 65535)) {
    const why = 'Servname not supported for ai_socktype'
    throw blockError('EINVAL', `address resolution failed for ${bind}:${port}: ${why}`)
  }
  return { type: 'inet', host: bind, port: number }
}

async function openImage(
  settings: NbdSettings,
  layer: BlockLayer,
  stderr: (text: string) => void,
  program: string,
) {
  const name = settings.operands[0] as string
  const { imageOpts, format } = settings
  if (imageOpts && format !== undefined) {
    throw blockError('EINVAL', '--image-opts and -f are mutually exclusive')
  }
  let options = OptionDict.fromTree(format === undefined ? {} : { driver: format })
  if (imageOpts) {
    const parsed = parseImageOptions(name)
    for (const { text, hint } of parsed.warnings) {
      stderr(`${program}: warning: ${text}\n${hint}\n`)
    }
    options = parsed.options
  }
  options.setDefault('cache.direct', settings.direct)
  options.setDefault('cache.no-flush', settings.noFlush)
  const flags = { ...settings.flags, write: !settings.readOnly }
  try {
    return await Backend.open(layer, imageOpts ? undefined : name, options, flags)
  } catch (error) {
    throw prefixed(error, `Failed to blk_new_open '${name}': `)
  }
}

/** The node to export: the image, or the part of it from `-o` on, for which the caller owns a reference. */
async function exportedNode(settings: NbdSettings, layer: BlockLayer, image: BlockNode): Promise<BlockNode> {
  if (settings.offset === 0) {
    return layer.ref(image)
  }
  const part = { driver: 'raw', file: image.name, offset: settings.offset }
  return await layer.open(undefined, part, { ...settings.flags, snapshot: false, write: !settings.readOnly })
}

async function serve(
  settings: NbdSettings,
  tls: TlsSession | undefined,
  layer: BlockLayer,
  context: ToolContext,
  stderr: (text: string) => void,
  hasPrinted: () => boolean,
): Promise<number> {
  const { program, signal, server: process } = context
  const { sockets, clock } = layer.host
  if (sockets === undefined) {
    throw blockError('ENOTSUP', 'Sockets are not available here')
  }
  let done: (() => void) | undefined
  const finished = new Promise<void>((resolve) => {
    done = resolve
  })
  const { shared, persistent } = settings
  const server = new NbdServer({
    sockets,
    clock,
    tls,
    maxConnections: shared,
    report: (text) => stderr(`${program}: ${text}\n`),
    onClientClosed: (negotiated) => {
      if (negotiated && server.connections === 0 && !persistent) {
        done?.()
      }
    },
  })
  let image: Backend | undefined
  let exported: NbdExport | undefined
  let connected: ConnectedDevice | undefined
  try {
    const backlog = persistent || shared === 0 ? manyConnections : Math.min(shared, manyConnections)
    const address = addressOf(settings, process?.inheritedSockets ?? 0)
    await server.listen(address, backlog)
    image = await openImage(settings, layer, stderr, program)
    const node = await exportedNode(settings, layer, image.node)
    try {
      if (settings.snapshot !== undefined) {
        await showSnapshot(node, settings.snapshot)
      }
      node.detectZeroes = settings.detectZeroes
      exported = await NbdExport.create(layer, node, {
        name: settings.exportName ?? '',
        ...(settings.description === undefined ? {} : { description: settings.description }),
        writable: !settings.readOnly,
        writeThrough: settings.writeThrough,
        bitmaps: settings.bitmaps,
        allocationDepth: settings.allocationDepth,
        multiConn: shared !== 1,
      })
    } finally {
      await layer.unref(node)
    }
    server.add(exported)
    server.start()
    if (settings.pidFile !== undefined) {
      process?.writePidFile(settings.pidFile)
    }
    process?.endsBySignal()
    const { device } = settings
    if (device !== undefined) {
      connected = await connectDevice(device, address, layer.host)
      const ended = (): void => done?.()
      connected.done.then(ended, ended)
      if (settings.verbose && !settings.fork) {
        stderr(`NBD device ${device} is now connected to ${settings.operands[0]}\n`)
      }
    }
    if (process?.isForked === true) {
      process.ready(hasPrinted())
    }
    signal.addEventListener('abort', () => done?.(), { once: true })
    if (signal.aborted) {
      done?.()
    }
    await finished
    await server.close()
    // The kernel notices that its server is gone.
    await connected?.done
    return 0
  } finally {
    await server.close()
    await exported?.close()
    await image?.close()
  }
}
