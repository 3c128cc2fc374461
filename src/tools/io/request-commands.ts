import { ioError } from '../../errors/index.js'
import { type Backend, Perm, type VmStateArea } from '../../graph/index.js'
import { maxRequestBytes, ReqFlags } from '../../io/index.js'
import type { Wait } from '../../sched/index.js'
import { lengthArgument, patternArgument, sizeArgument, vectorLength } from './arguments.js'
import { CommandFailure, type IoCommand, readOptions, usageLine } from './command.js'
import type { IoSession } from './session.js'
import { dumpText, type Report, reportText } from './text.js'

/** What buffers hold before a read, and what writes write by default. */
export const readFill = 0xab
export const writeFill = 0xcd
/** Of `-r` (registered buffers, QEMU 8.0), which has no effect here, and `-z`. */
export const registeredZeroes = 'cannot combine zero write with registered I/O buffer'

/** Waits for a request if it has to, says why it failed, or goes on with `done`. */
function finish(
  session: IoSession,
  name: string,
  request: () => Wait,
  done: () => void,
): Promise<undefined> | undefined {
  const failed = (error: unknown): never => {
    session.deliver()
    throw new CommandFailure(`${name} failed: ${session.errnoText(error)}`)
  }
  let wait: Wait
  try {
    wait = request()
  } catch (error) {
    return failed(error)
  }
  if (wait === undefined) {
    session.deliver()
    done()
    return undefined
  }
  return wait.then(() => {
    session.deliver()
    done()
    return undefined
  }, failed)
}

/** @throws BlockError ENOTSUP if the image has no such area */
function vmState(backend: Backend): VmStateArea {
  const area = backend.node.state?.vmState
  if (area === undefined) {
    throw ioError('ENOTSUP')
  }
  return area
}

function checkSectors(offset: number, bytes: number): void {
  for (const [name, value] of [
    ['offset', offset],
    ['count', bytes],
  ] as const) {
    if (value % 512 !== 0) {
      throw new CommandFailure(`${value} is not a sector-aligned value for '${name}'`)
    }
  }
}

/** Whether `buffer[offset, +bytes)` holds only `pattern`. */
export function holds(buffer: Uint8Array, pattern: number, offset = 0, bytes = buffer.length): boolean {
  for (let at = offset; at < offset + bytes; at++) {
    if (buffer[at] !== pattern) {
      return false
    }
  }
  return true
}

const read: IoCommand = {
  name: 'read',
  alias: 'r',
  min: 2,
  max: -1,
  usage: '[-abCqv] [-P pattern [-s off] [-l len]] off len',
  summary: 'reads a number of bytes at a specified offset',
  run(session, argv) {
    let fromVmState = false
    let machine = false
    let quiet = false
    let dump = false
    let pattern: number | undefined
    let start: number | undefined
    let length: number | undefined
    const operands = readOptions(session, read, argv, 'bCl:pP:qrs:v', ({ option, argument }) => {
      switch (option) {
        case 'b':
          fromVmState = true
          break
        case 'C':
          machine = true
          break
        case 'l':
          length = sizeArgument(argument)
          break
        case 'P':
          pattern = patternArgument(argument)
          break
        case 'q':
          quiet = true
          break
        case 's':
          start = sizeArgument(argument)
          break
        case 'v':
          dump = true
          break
      }
    })
    const [offsetText, lengthText] = operands
    if (offsetText === undefined || lengthText === undefined || operands.length !== 2) {
      throw new CommandFailure(usageLine(read))
    }
    const offset = sizeArgument(offsetText)
    const bytes = lengthArgument(lengthText)
    if (pattern === undefined && (length !== undefined || start !== undefined)) {
      throw new CommandFailure(usageLine(read))
    }
    const from = start ?? 0
    const compared = length ?? bytes - from
    if (compared < 0 || from + compared > bytes) {
      throw new CommandFailure('pattern verification range exceeds end of read data')
    }
    if (fromVmState) {
      checkSectors(offset, bytes)
    }
    const { image } = session
    const begin = performance.now()
    const buffer = new Uint8Array(bytes).fill(readFill)
    const request = (): Wait =>
      fromVmState ? vmState(image).read(offset, bytes, buffer, 0) : image.read(offset, bytes, buffer)
    return finish(session, 'read', request, () => {
      const milliseconds = performance.now() - begin
      const right = pattern === undefined || holds(buffer, pattern, from, compared)
      if (!right) {
        session.print(`Pattern verification failed at offset ${offset + from}, ${compared} bytes`)
      }
      afterRead(session, buffer, quiet, dump, { operation: 'read', milliseconds, offset, bytes, machine })
      if (!right) {
        throw new CommandFailure()
      }
    })
  },
}

function afterRead(
  session: IoSession,
  buffer: Uint8Array,
  quiet: boolean,
  dump: boolean,
  report: Report,
): void {
  if (!quiet) {
    if (dump) {
      session.write(dumpText(buffer, report.offset))
    }
    session.write(reportText(report))
  }
}

const readv: IoCommand = {
  name: 'readv',
  min: 2,
  max: -1,
  usage: '[-Cqv] [-P pattern] off len [len..]',
  summary: 'reads a number of bytes at a specified offset',
  run(session, argv) {
    let machine = false
    let quiet = false
    let dump = false
    let pattern: number | undefined
    const operands = readOptions(session, readv, argv, 'CP:qrv', ({ option, argument }) => {
      switch (option) {
        case 'C':
          machine = true
          break
        case 'P':
          pattern = patternArgument(argument)
          break
        case 'q':
          quiet = true
          break
        case 'v':
          dump = true
          break
      }
    })
    const [offsetText, ...lengths] = operands
    if (offsetText === undefined || lengths.length === 0) {
      throw new CommandFailure(usageLine(readv))
    }
    const offset = sizeArgument(offsetText)
    const bytes = vectorLength(lengths)
    const { image } = session
    const begin = performance.now()
    const buffer = new Uint8Array(bytes).fill(readFill)
    return finish(
      session,
      'readv',
      () => image.read(offset, bytes, buffer),
      () => {
        const milliseconds = performance.now() - begin
        const right = pattern === undefined || holds(buffer, pattern)
        if (!right) {
          session.print(`Pattern verification failed at offset ${offset}, ${bytes} bytes`)
        }
        afterRead(session, buffer, quiet, dump, { operation: 'read', milliseconds, offset, bytes, machine })
        if (!right) {
          throw new CommandFailure()
        }
      },
    )
  },
}

/** What the options of `write` say. */
interface WriteMode {
  toVmState: boolean
  compressed: boolean
  zeroes: boolean
  machine: boolean
  quiet: boolean
  /** `-r`; the backend registers buffers as it sees fit, with and without it. */
  registered: boolean
  flags: number
  pattern: number | undefined
  source: string | undefined
}

function checkWriteMode(mode: WriteMode): void {
  if (mode.toVmState && mode.zeroes) {
    throw new CommandFailure('-b and -z cannot be specified at the same time')
  }
  if ((mode.flags & ReqFlags.fua) !== 0 && (mode.toVmState || mode.compressed)) {
    throw new CommandFailure('-f and -b or -c cannot be specified at the same time')
  }
  if ((mode.flags & ReqFlags.noFallback) !== 0 && !mode.zeroes) {
    throw new CommandFailure('-n requires -z to be specified')
  }
  if ((mode.flags & ReqFlags.mayUnmap) !== 0 && !mode.zeroes) {
    throw new CommandFailure('-u requires -z to be specified')
  }
  if (Number(mode.zeroes) + Number(mode.pattern !== undefined) + Number(mode.source !== undefined) > 1) {
    throw new CommandFailure('Only one of -z, -P, and -s can be specified at the same time')
  }
  if (mode.zeroes && mode.registered) {
    throw new CommandFailure(registeredZeroes)
  }
}

/** `bytes` bytes that repeat what the file `name` begins with. @throws CommandFailure */
async function patternFile(session: IoSession, name: string, bytes: number): Promise<Uint8Array> {
  const { Backend: Opened } = await import('../../graph/index.js')
  const { OptionDict } = await import('../../options/index.js')
  const options = OptionDict.fromTree({ driver: 'file', filename: name, locking: 'off' })
  let file: Backend
  try {
    file = await Opened.open(session.layer, undefined, options, { protocol: true })
  } catch (error) {
    session.stderr(`${name}: ${session.errnoText(error)}\n`)
    throw new CommandFailure()
  }
  try {
    const buffer = new Uint8Array(bytes)
    // Lengths of nodes are rounded up to sectors; the file knows its own.
    const length = Math.min(bytes, file.node.state?.length ?? 0)
    if (length === 0) {
      session.stderr(`${name}: file is empty\n`)
      throw new CommandFailure()
    }
    await file.read(0, length, buffer)
    for (let at = length; at < bytes; at += length) {
      buffer.copyWithin(at, 0, Math.min(length, bytes - at))
    }
    return buffer
  } finally {
    await file.close()
  }
}

function writeRequest(
  image: Backend,
  mode: WriteMode,
  offset: number,
  bytes: number,
  buffer: Uint8Array,
): Wait {
  if (mode.toVmState) {
    return vmState(image).write(offset, bytes, buffer, 0)
  }
  if (mode.zeroes) {
    return image.writeZeroes(offset, bytes, mode.flags)
  }
  return image.write(offset, bytes, buffer, 0, mode.compressed ? ReqFlags.writeCompressed : mode.flags)
}

const write: IoCommand = {
  name: 'write',
  alias: 'w',
  min: 2,
  max: -1,
  perm: Perm.write,
  usage: '[-bcCfnquz] [-P pattern | -s source_file] off len',
  summary: 'writes a number of bytes at a specified offset',
  run(session, argv) {
    const mode: WriteMode = {
      toVmState: false,
      compressed: false,
      zeroes: false,
      machine: false,
      quiet: false,
      registered: false,
      flags: 0,
      pattern: undefined,
      source: undefined,
    }
    const operands = readOptions(session, write, argv, 'bcCfnpP:qrs:uz', ({ option, argument }) => {
      switch (option) {
        case 'b':
          mode.toVmState = true
          break
        case 'c':
          mode.compressed = true
          break
        case 'C':
          mode.machine = true
          break
        case 'f':
          mode.flags |= ReqFlags.fua
          break
        case 'n':
          mode.flags |= ReqFlags.noFallback
          break
        case 'P':
          mode.pattern = patternArgument(argument)
          break
        case 'q':
          mode.quiet = true
          break
        case 'r':
          mode.registered = true
          break
        case 's':
          mode.source = argument
          break
        case 'u':
          mode.flags |= ReqFlags.mayUnmap
          break
        case 'z':
          mode.zeroes = true
          break
      }
    })
    const [offsetText, lengthText] = operands
    if (offsetText === undefined || lengthText === undefined || operands.length !== 2) {
      throw new CommandFailure(usageLine(write))
    }
    checkWriteMode(mode)
    const offset = sizeArgument(offsetText)
    const bytes = sizeArgument(lengthText)
    if (bytes > maxRequestBytes && (mode.flags & ReqFlags.noFallback) === 0) {
      throw new CommandFailure(`length cannot exceed ${maxRequestBytes} without -n, given ${lengthText}`)
    }
    if (mode.toVmState || mode.compressed) {
      checkSectors(offset, bytes)
    }
    const go = (buffer: Uint8Array): Promise<undefined> | undefined => {
      const begin = performance.now()
      const request = (): Wait => writeRequest(session.image, mode, offset, bytes, buffer)
      return finish(session, 'write', request, () => {
        if (!mode.quiet) {
          const milliseconds = performance.now() - begin
          session.write(
            reportText({ operation: 'wrote', milliseconds, offset, bytes, machine: mode.machine }),
          )
        }
      })
    }
    if (mode.source !== undefined) {
      return patternFile(session, mode.source, bytes).then(go)
    }
    return go(mode.zeroes ? new Uint8Array(0) : new Uint8Array(bytes).fill(mode.pattern ?? writeFill))
  },
}

const writev: IoCommand = {
  name: 'writev',
  min: 2,
  max: -1,
  perm: Perm.write,
  usage: '[-Cfq] [-P pattern] off len [len..]',
  summary: 'writes a number of bytes at a specified offset',
  run(session, argv) {
    let machine = false
    let quiet = false
    let flags = 0
    let pattern = writeFill
    const operands = readOptions(session, writev, argv, 'CfqP:r', ({ option, argument }) => {
      switch (option) {
        case 'C':
          machine = true
          break
        case 'f':
          flags |= ReqFlags.fua
          break
        case 'q':
          quiet = true
          break
        case 'P':
          pattern = patternArgument(argument)
          break
      }
    })
    const [offsetText, ...lengths] = operands
    if (offsetText === undefined || lengths.length === 0) {
      throw new CommandFailure(usageLine(writev))
    }
    const offset = sizeArgument(offsetText)
    const bytes = vectorLength(lengths)
    const { image } = session
    const begin = performance.now()
    const buffer = new Uint8Array(bytes).fill(pattern)
    return finish(
      session,
      'writev',
      () => image.write(offset, bytes, buffer, 0, flags),
      () => {
        if (!quiet) {
          const milliseconds = performance.now() - begin
          session.write(reportText({ operation: 'wrote', milliseconds, offset, bytes, machine }))
        }
      },
    )
  },
}

const discard: IoCommand = {
  name: 'discard',
  alias: 'd',
  min: 2,
  max: -1,
  perm: Perm.write,
  usage: '[-Cq] off len',
  summary: 'discards a number of bytes at a specified offset',
  run(session, argv) {
    let machine = false
    let quiet = false
    const operands = readOptions(session, discard, argv, 'Cq', ({ option }) => {
      machine ||= option === 'C'
      quiet ||= option === 'q'
    })
    const [offsetText, lengthText] = operands
    if (offsetText === undefined || lengthText === undefined || operands.length !== 2) {
      throw new CommandFailure(usageLine(discard))
    }
    const offset = sizeArgument(offsetText)
    const bytes = lengthArgument(lengthText)
    const { image } = session
    const begin = performance.now()
    return finish(
      session,
      'discard',
      () => image.discard(offset, bytes),
      () => {
        if (!quiet) {
          const milliseconds = performance.now() - begin
          session.write(reportText({ operation: 'discard', milliseconds, offset, bytes, machine }))
        }
      },
    )
  },
}

export const requestCommands: readonly IoCommand[] = [read, readv, write, writev, discard]
