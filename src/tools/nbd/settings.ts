import { blockError, isBlockError } from '../../errors/index.js'
import { type BlockLayer, type OpenFlags, parseCacheMode, parseDiscard } from '../../graph/index.js'
import type { SnapshotWanted } from '../../image/index.js'
import type { DetectZeroes } from '../../io/index.js'
import { parseOptionText } from '../../options/index.js'
import { ToolExit } from '../context.js'
import { Getopt, type LongOption } from '../getopt.js'
import { addObject } from '../objects.js'

const longOptions: readonly LongOption[] = [
  { name: 'help', argument: false, value: 'h' },
  { name: 'version', argument: false, value: 'V' },
  { name: 'bind', argument: true, value: 'b' },
  { name: 'port', argument: true, value: 'p' },
  { name: 'socket', argument: true, value: 'k' },
  { name: 'offset', argument: true, value: 'o' },
  { name: 'read-only', argument: false, value: 'r' },
  { name: 'allocation-depth', argument: false, value: 'A' },
  { name: 'bitmap', argument: true, value: 'B' },
  { name: 'connect', argument: true, value: 'c' },
  { name: 'disconnect', argument: false, value: 'd' },
  { name: 'list', argument: false, value: 'L' },
  { name: 'snapshot', argument: false, value: 's' },
  { name: 'load-snapshot', argument: true, value: 'l' },
  { name: 'nocache', argument: false, value: 'n' },
  { name: 'cache', argument: true, value: 'cache' },
  { name: 'aio', argument: true, value: 'aio' },
  { name: 'discard', argument: true, value: 'discard' },
  { name: 'detect-zeroes', argument: true, value: 'detect-zeroes' },
  { name: 'shared', argument: true, value: 'e' },
  { name: 'format', argument: true, value: 'f' },
  { name: 'persistent', argument: false, value: 't' },
  { name: 'verbose', argument: false, value: 'v' },
  { name: 'object', argument: true, value: 'object' },
  { name: 'export-name', argument: true, value: 'x' },
  { name: 'description', argument: true, value: 'D' },
  { name: 'tls-creds', argument: true, value: 'tls-creds' },
  { name: 'tls-hostname', argument: true, value: 'tls-hostname' },
  { name: 'tls-authz', argument: true, value: 'tls-authz' },
  { name: 'image-opts', argument: false, value: 'image-opts' },
  { name: 'trace', argument: true, value: 'T' },
  { name: 'fork', argument: false, value: 'fork' },
  { name: 'pid-file', argument: true, value: 'pid-file' },
  { name: 'selinux-label', argument: true, value: 'selinux-label' },
]

const shortOptions = 'hVb:o:p:rsnc:dvk:e:f:tl:x:T:D:AB:L'
const maxStringBytes = 4096

/** What the command line of `qemu-nbd` says. */
export class NbdSettings {
  readonly flags: Partial<OpenFlags> = {}
  readOnly = false
  writeThrough = false
  direct = false
  noFlush = false
  detectZeroes: DetectZeroes = 'off'
  offset = 0
  bind: string | undefined
  port: string | undefined
  socket: string | undefined
  device: string | undefined
  disconnect = false
  list = false
  shared = 1
  persistent = false
  verbose = false
  format: string | undefined
  imageOpts = false
  exportName: string | undefined
  description: string | undefined
  readonly bitmaps: string[] = []
  allocationDepth = false
  snapshot: SnapshotWanted | undefined
  tlsCreds: string | undefined
  tlsHostname: string | undefined
  tlsAuthz: string | undefined
  fork = false
  pidFile: string | undefined
  selinuxLabel: string | undefined
  seenCache = false
  seenAio = false
  seenDiscard = false
  operands: readonly string[] = []
}

/** How {@link readSettings} talks to the user. */
export interface SettingsOutput {
  readonly program: string
  write(text: string): void
  stderr(text: string): void
  helpText(): string
  versionText(): string
}

/**
 * Reads the command line. Objects are defined in the layer as they are met.
 *
 * @throws ToolExit when the program ends here; BlockError for what the block layer refuses
 */
export async function readSettings(
  argv: readonly string[],
  layer: BlockLayer,
  output: SettingsOutput,
): Promise<NbdSettings> {
  const settings = new NbdSettings()
  const { program } = output
  const getopt = new Getopt([program, ...argv], shortOptions, longOptions, (text) =>
    output.stderr(`${text}\n`),
  )
  for (let next = getopt.next(); next !== undefined; next = getopt.next()) {
    switch (next.option) {
      case '?':
        fail(`Try \`${program} --help' for more information.`)
        break
      case 'h':
        output.write(output.helpText())
        throw new ToolExit(0)
      case 'V':
        output.write(output.versionText())
        throw new ToolExit(0)
      case 'object': {
        const lines = await addObject(layer, next.argument)
        if (lines !== undefined) {
          output.write(`${lines.join('\n')}\n`)
          throw new ToolExit(0)
        }
        break
      }
      default:
        takeOption(settings, next.option, next.argument, output)
    }
  }
  settings.operands = getopt.operands
  return settings
}

/** What is wrong with the command line. */
function fail(text: string): never {
  throw blockError('EINVAL', text)
}

function takeOption(settings: NbdSettings, option: string, argument: string, output: SettingsOutput): void {
  switch (option) {
    case 's':
      settings.flags.snapshot = true
      break
    case 'n':
      takeCache(settings, 'none')
      break
    case 'cache':
      takeCache(settings, argument)
      break
    case 'aio':
      if (settings.seenAio) {
        fail('--aio can only be specified once')
      }
      settings.seenAio = true
      if (argument !== 'threads' && argument !== 'native' && argument !== 'io_uring') {
        fail(`Invalid aio mode '${argument}'`)
      }
      settings.flags.aio = argument as 'threads' | 'native' | 'io_uring'
      break
    case 'discard':
      if (settings.seenDiscard) {
        fail('--discard can only be specified once')
      }
      settings.seenDiscard = true
      try {
        settings.flags.unmap = parseDiscard(argument)
      } catch {
        fail(`Invalid discard mode \`${argument}'`)
      }
      break
    case 'detect-zeroes':
      takeDetectZeroes(settings, argument)
      break
    case 'b':
      settings.bind = argument
      break
    case 'p':
      settings.port = argument
      break
    case 'o':
      settings.offset = integer(argument) ?? fail(`Invalid offset '${argument}'`)
      break
    case 'l':
      settings.snapshot = snapshotOf(argument, output)
      settings.readOnly = true
      break
    case 'r':
      settings.readOnly = true
      break
    case 'A':
      settings.allocationDepth = true
      break
    case 'B':
      settings.bitmaps.unshift(argument)
      break
    case 'k':
      if (!argument.startsWith('/')) {
        fail('socket path must be absolute')
      }
      settings.socket = argument
      break
    case 'd':
      settings.disconnect = true
      break
    case 'c':
      settings.device = argument
      break
    case 'e': {
      const shared = integer(argument)
      settings.shared =
        shared !== undefined && shared <= 0x7fffffff
          ? shared
          : fail(`Invalid shared device number '${argument}'`)
      break
    }
    case 'x':
      if (new TextEncoder().encode(argument).length > maxStringBytes) {
        fail(`export name '${argument}' too long`)
      }
      settings.exportName = argument
      break
    case 'D':
      if (new TextEncoder().encode(argument).length > maxStringBytes) {
        fail(`export description '${argument}' too long`)
      }
      settings.description = argument
      break
    default:
      takePlain(settings, option, argument)
  }
}

/** Options that are only noted. */
function takePlain(settings: NbdSettings, option: string, argument: string): void {
  switch (option) {
    case 'f':
      settings.format = argument
      break
    case 't':
      settings.persistent = true
      break
    case 'v':
      settings.verbose = true
      break
    case 'tls-creds':
      settings.tlsCreds = argument
      break
    case 'tls-hostname':
      settings.tlsHostname = argument
      break
    case 'tls-authz':
      settings.tlsAuthz = argument
      break
    case 'image-opts':
      settings.imageOpts = true
      break
    case 'fork':
      settings.fork = true
      break
    case 'L':
      settings.list = true
      break
    case 'pid-file':
      settings.pidFile = argument
      break
    case 'selinux-label':
      settings.selinuxLabel = argument
      break
    default:
    // -T: there is nothing to trace.
  }
}

function takeCache(settings: NbdSettings, word: string): void {
  if (settings.seenCache) {
    fail('-n and --cache can only be specified once')
  }
  settings.seenCache = true
  const mode = parseCacheMode(word) ?? fail(`Invalid cache mode \`${word}'`)
  settings.direct = mode.direct
  settings.noFlush = mode.noFlush
  settings.writeThrough = mode.writeThrough
}

function takeDetectZeroes(settings: NbdSettings, word: string): void {
  if (word !== 'off' && word !== 'on' && word !== 'unmap') {
    fail(`Failed to parse detect_zeroes mode: invalid parameter value: ${word}`)
  }
  if (word === 'unmap' && settings.flags.unmap !== true) {
    fail('setting detect-zeroes to unmap is not allowed without setting discard operation to unmap')
  }
  settings.detectZeroes = word as DetectZeroes
}

/** An integer from 0 on as C writes it: decimal, `0x`, or octal with a leading 0. */
function integer(text: string): number | undefined {
  const match = /^\s*\+?(?:(0[xX][0-9a-fA-F]+)|0([0-7]*)|([1-9]\d*))$/.exec(text)
  if (match === null) {
    return undefined
  }
  const [, hex, octal, decimal] = match
  const value =
    hex !== undefined ? Number(hex) : octal !== undefined ? Number(`0o${octal || '0'}`) : Number(decimal)
  return Number.isSafeInteger(value) ? value : undefined
}

function snapshotOf(text: string, output: SettingsOutput): SnapshotWanted {
  if (!text.startsWith('snapshot.')) {
    return text
  }
  const wanted: { id?: string; name?: string } = {}
  for (const [name, value] of parseOptionText(text)) {
    if (name !== 'snapshot.id' && name !== 'snapshot.name') {
      output.stderr(`${output.program}: Invalid parameter '${name}'\n`)
      fail(`Failed in parsing snapshot param \`${text}'`)
    }
    wanted[name === 'snapshot.id' ? 'id' : 'name'] = value
  }
  return wanted
}

/** Whether the modes of the command line go together. @throws BlockError with QEMU's text */
export function checkSettings(settings: NbdSettings, output: SettingsOutput): void {
  const { list, operands } = settings
  if (list) {
    if (operands.length > 0) {
      fail('List mode is incompatible with a file name')
    }
    if (
      settings.exportName !== undefined ||
      settings.description !== undefined ||
      settings.offset !== 0 ||
      settings.device !== undefined ||
      settings.disconnect ||
      settings.format !== undefined ||
      typeof settings.snapshot === 'string' ||
      settings.bitmaps.length > 0 ||
      settings.allocationDepth ||
      settings.seenAio ||
      settings.seenDiscard ||
      settings.seenCache
    ) {
      fail('List mode is incompatible with per-device settings')
    }
    if (settings.fork) {
      fail('List mode is incompatible with forking')
    }
  } else if (operands.length !== 1) {
    output.stderr(`${output.program}: Invalid number of arguments\n`)
    output.stderr(`Try \`${output.program} --help' for more information.\n`)
    throw new ToolExit(1)
  }
}

/** Whether what the command line says of sockets goes with inherited ones. @throws BlockError with QEMU's text */
export function checkInheritedSockets(settings: NbdSettings, inherited: number): void {
  if (inherited === 0) {
    return
  }
  const wrong: readonly (readonly [unknown, string])[] = [
    [settings.device, "NBD device can't be set when using socket activation"],
    [settings.socket, "Unix socket can't be set when using socket activation"],
    [settings.bind, "The interface can't be set when using socket activation"],
    [settings.port, "TCP port number can't be set when using socket activation"],
    [settings.selinuxLabel, "SELinux label can't be set when using socket activation"],
    [settings.list || undefined, 'List mode is incompatible with socket activation'],
  ]
  for (const [value, text] of wrong) {
    if (value !== undefined) {
      fail(text)
    }
  }
  if (inherited > 1) {
    fail('qemu-nbd does not support socket activation with LISTEN_FDS > 1')
  }
}

/** @throws BlockError with QEMU's text */
export function checkTlsSettings(settings: NbdSettings): void {
  if (settings.tlsCreds !== undefined) {
    if (settings.device !== undefined) {
      fail('TLS is not supported with a host device')
    }
    if (settings.tlsAuthz !== undefined && settings.list) {
      fail('TLS authorization is incompatible with export list')
    }
    if (settings.tlsHostname !== undefined && !settings.list) {
      fail('TLS hostname is only supported with export list')
    }
  } else {
    if (settings.tlsAuthz !== undefined) {
      fail('--tls-authz is not permitted without --tls-creds')
    }
    if (settings.tlsHostname !== undefined) {
      fail('--tls-hostname is not permitted without --tls-creds')
    }
  }
  if (settings.selinuxLabel !== undefined) {
    fail(
      settings.socket === undefined && settings.device === undefined
        ? '--selinux-label is not permitted without --socket'
        : 'SELinux support not enabled in this binary',
    )
  }
}

/** The text of an error that ended the command, for those who print it. */
export function messageOf(error: unknown): string {
  return isBlockError(error)
    ? error.message
    : `internal error: ${error instanceof Error ? error.message : String(error)}`
}
