import { blockError, isBlockError, prefixed } from '../../errors/index.js'
import { addBlockdev } from '../../graph/index.js'
import { type OptionTree, parseJson, parseKeyval } from '../../options/index.js'
import {
  attachMonitor,
  type CharDevice,
  InputChecker,
  JsonNumber,
  MetricsServer,
  parseChardev,
  StorageDaemon,
  type TypeOf,
  type WireValue,
} from '../../qmp/index.js'
import { type ToolContext, ToolExit } from '../context.js'
import { addObject } from '../objects.js'
import { packageVersion, qemuVersion } from '../version.js'
import { type DaemonArgument, readArguments } from './arguments.js'
import { chardevHelp, helpText, versionText } from './help.js'

/**
 * `qemu-storage-daemon`: sets up what the command line asks for, in its order, and runs until a signal or
 * the command `quit` ends it. Nothing is thrown, and nothing stays open.
 *
 * @param argv the arguments, without the program's name
 */
export async function run(argv: readonly string[], context: ToolContext): Promise<number> {
  const { program, server: process } = context
  let pidFile: string | undefined
  let daemonize = false
  const { early, inOrder } = readArguments(program, argv, (text) => context.stderr(`${text}\n`))
  for (const { option, value } of early) {
    switch (option) {
      case 'h':
        context.stdout(helpText(program))
        return 0
      case 'V':
        context.stdout(versionText(program))
        return 0
      case 'daemonize':
        daemonize = true
        break
      case 'pidfile':
        pidFile = value
        break
      default:
        return 1
    }
  }
  if (daemonize && process !== undefined && !process.isForked) {
    return await process.fork()
  }
  return await new DaemonRun(context, daemonize).run(inOrder, pidFile)
}

/** Boundaries of latency histograms, nanoseconds: 10 µs to 10 s. */
const latencyBoundaries = [1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9, 1e10]

class DaemonRun {
  readonly #context: ToolContext
  readonly #daemonize: boolean
  #end: () => void = () => undefined
  readonly #metrics: MetricsServer[] = []
  /** Devices of monitors: they are served when the whole command line has taken effect. */
  readonly #monitors = new Map<CharDevice, { readonly pretty?: boolean | undefined }>()
  readonly #ended: Promise<void>

  constructor(context: ToolContext, daemonize: boolean) {
    this.#context = context
    this.#daemonize = daemonize
    this.#ended = new Promise((resolve) => {
      this.#end = resolve
    })
  }

  async run(inOrder: readonly DaemonArgument[], pidFile: string | undefined): Promise<number> {
    const { program, stderr, signal, server: process } = this.#context
    const layer = await this.#context.createLayer((line) =>
      stderr(line.startsWith('warning: ') ? `${program}: ${line}\n` : `${line}\n`),
    )
    const daemon = new StorageDaemon({
      layer,
      version: monitorVersion(),
      quit: () => this.#end(),
      stdio: this.#daemonize ? undefined : this.#stdio(),
      onInternalError: (error) => stderr(`${program}: internal error: ${String(error)}\n`),
    })
    let code = 0
    let wrotePidFile = false
    process?.endsBySignal()
    signal.addEventListener('abort', () => this.#end(), { once: true })
    try {
      for (const argument of inOrder) {
        await this.#takeArgument(daemon, argument)
      }
      for (const [device, options] of this.#monitors) {
        attachMonitor(daemon.monitor, device, options)
      }
      if (pidFile !== undefined) {
        this.#writePidFile(pidFile)
        wrotePidFile = process !== undefined
      }
      if (process?.isForked === true) {
        process.ready(false)
      }
      if (!signal.aborted) {
        await this.#ended
      }
    } catch (error) {
      code = this.#failed(error)
    }
    try {
      for (const server of this.#metrics) {
        await server.close()
      }
      await daemon.close()
      await layer.closeAll()
    } catch (error) {
      code = this.#failed(error)
    }
    if (wrotePidFile && pidFile !== undefined) {
      removeFile(() => layer.host.files.unlink(pidFile))
    }
    return code
  }

  /** Exports that are made from now on count their requests. */
  async #startMetrics(daemon: StorageDaemon, where: string): Promise<void> {
    const match = /^(?:\[([0-9a-fA-F:]+)\]|([^:]*)):(\d{1,5})$/.exec(where)
    const port = Number(match?.[3])
    if (match === null || port > 65535) {
      throw blockError('EINVAL', `Expecting HOST:PORT, not '${where}'`)
    }
    const server = new MetricsServer(daemon)
    await server.listen(daemon.layer.host.sockets, match[1] ?? (match[2] || '127.0.0.1'), port)
    this.#metrics.push(server)
    daemon.exports.accountingBoundaries = latencyBoundaries
  }

  #failed(error: unknown): number {
    if (error instanceof ToolExit) {
      return error.code
    }
    const { program, stderr } = this.#context
    const message = isBlockError(error)
      ? error.message
      : `internal error: ${error instanceof Error ? error.message : String(error)}`
    stderr(`${program}: ${message}\n`)
    if (isBlockError(error) && error.hint !== undefined) {
      stderr(`${error.hint}\n`)
    }
    return 1
  }

  #writePidFile(path: string): void {
    try {
      this.#context.server?.writePidFile(path)
    } catch (error) {
      throw prefixed(error, 'cannot create PID file: ')
    }
  }

  /** Standard input and output, of which one character device may make use. */
  #stdio() {
    const { source, sink } = this.#context
    let last: Promise<void> = Promise.resolve()
    return {
      input: source,
      write: (bytes: Uint8Array): Promise<void> => {
        const copy = bytes.slice()
        last = last
          .then(() => sink.write(copy))
          .catch((error: unknown) => {
            if (!isBlockError(error)) {
              throw error
            }
            // Nobody reads it any more.
          })
        return last
      },
    }
  }

  #addMonitor(daemon: StorageDaemon, { chardev, mode, pretty }: TypeOf<'MonitorOptions'>): void {
    const device = daemon.chardevs.find(chardev)
    if (device === undefined) {
      throw blockError('ENOENT', `chardev "${chardev}" not found`)
    }
    if (mode === 'readline') {
      throw blockError('ENOTSUP', 'Only QMP is supported')
    }
    if (this.#monitors.has(device)) {
      throw blockError('EBUSY', `Device '${device.label}' is in use`)
    }
    this.#monitors.set(device, { pretty })
  }

  async #takeArgument(daemon: StorageDaemon, argument: DaemonArgument): Promise<void> {
    try {
      await this.#take(daemon, argument)
    } catch (error) {
      throw prefixed(error, `${argument.place}: `)
    }
  }

  async #take(daemon: StorageDaemon, { option, value, place }: DaemonArgument): Promise<void> {
    const { program, stdout, stderr } = this.#context
    switch (option) {
      case 'operand':
        throw blockError('EINVAL', 'Unexpected argument')
      case 'blockdev':
        await addBlockdev(
          daemon.layer,
          readValue('BlockdevOptions', value, 'driver') as unknown as OptionTree,
        )
        break
      case 'export':
        await daemon.exports.add(readValue('BlockExportOptions', value, 'type'))
        break
      case 'nbd-server':
        await daemon.exports.startNbdServer(readValue('NbdServerOptions', value))
        break
      case 'object': {
        const lines = await addObject(daemon.layer, value, true)
        if (lines !== undefined) {
          stdout(`${lines.join('\n')}\n`)
          throw new ToolExit(0)
        }
        break
      }
      case 'chardev': {
        const request = parseChardev(value)
        if (request.kind === 'help') {
          stdout(chardevHelp())
          throw new ToolExit(0)
        }
        for (const { text, hint } of request.warnings) {
          stderr(`${program}: ${place}: warning: ${text}\n${hint}\n`)
        }
        await daemon.chardevs.add(request.id, request.backend, (where) => {
          stderr(`${program}: ${place}: info: QEMU waiting for connection on: ${where}\n`)
        })
        break
      }
      case 'monitor':
        this.#addMonitor(daemon, readValue('MonitorOptions', value, 'chardev'))
        break
      case 'metrics':
        await this.#startMetrics(daemon, value)
        break
      default:
      // -T: there is nothing to trace.
    }
  }
}

/** An option's argument, key-value text or JSON, as a value of the schema's. @throws BlockError with QEMU's text */
function readValue<N extends string>(type: N, text: string, implied?: string): TypeOf<N> {
  if (text.startsWith('{')) {
    const value: WireValue = parseJson<JsonNumber>(text, (number) =>
      /^-?\d+$/.test(number) && Number.isSafeInteger(Number(number))
        ? Number(number)
        : new JsonNumber(number),
    )
    return new InputChecker('json').value(type, value) as TypeOf<N>
  }
  const { value, help } = parseKeyval(text, implied)
  if (help) {
    throw blockError('EINVAL', 'Help is not available for this option')
  }
  return new InputChecker('keyval').value(type, value) as TypeOf<N>
}

/** The release that clients are to take us for, and who we are. */
function monitorVersion() {
  const [major = 0, minor = 0, micro = 0] = qemuVersion.split('.').map(Number)
  return { qemu: { major, minor, micro }, package: `blockgraph ${packageVersion}` }
}

function removeFile(unlink: () => void): void {
  try {
    unlink()
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
    // Somebody else has removed it.
  }
}
