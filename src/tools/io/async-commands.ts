import { Perm } from '../../graph/index.js'
import { ReqFlags } from '../../io/index.js'
import { lengthArgument, patternArgument, sizeArgument, vectorLength } from './arguments.js'
import { CommandFailure, type IoCommand, readOptions, usageLine } from './command.js'
import { holds, readFill, registeredZeroes, writeFill } from './request-commands.js'
import { dumpText, reportText } from './text.js'

/** `-i`: nothing is read or written, the request only counts as invalid. Thrown to leave the options. */
class InvalidRequest extends Error {}

const aioRead: IoCommand = {
  name: 'aio_read',
  min: 2,
  max: -1,
  usage: '[-Ciqv] [-P pattern] off len [len..]',
  summary: 'asynchronously reads a number of bytes',
  run(session, argv) {
    let machine = false
    let quiet = false
    let dump = false
    let pattern: number | undefined
    let operands: string[]
    try {
      operands = readOptions(session, aioRead, argv, 'CP:iqrv', ({ option, argument }) => {
        switch (option) {
          case 'C':
            machine = true
            break
          case 'P':
            pattern = patternArgument(argument)
            break
          case 'i':
            throw new InvalidRequest()
          case 'q':
            quiet = true
            break
          case 'v':
            dump = true
            break
        }
      })
    } catch (error) {
      if (error instanceof InvalidRequest) {
        session.print('injecting invalid read request')
        return undefined
      }
      throw error
    }
    const [offsetText, ...lengths] = operands
    if (offsetText === undefined || lengths.length === 0) {
      throw new CommandFailure(usageLine(aioRead))
    }
    const offset = sizeArgument(offsetText)
    const bytes = vectorLength(lengths)
    const { image } = session
    const begin = performance.now()
    const buffer = new Uint8Array(bytes).fill(readFill)
    session.later(
      () => image.read(offset, bytes, buffer),
      (error) => {
        const milliseconds = performance.now() - begin
        if (error !== undefined) {
          session.print(`readv failed: ${session.errnoText(error)}`)
          return
        }
        if (pattern !== undefined && !holds(buffer, pattern)) {
          session.print(`Pattern verification failed at offset ${offset}, ${bytes} bytes`)
        }
        if (!quiet) {
          session.write(dump ? dumpText(buffer, offset) : '')
          session.write(reportText({ operation: 'read', milliseconds, offset, bytes, machine }))
        }
      },
    )
    return undefined
  },
}

const aioWrite: IoCommand = {
  name: 'aio_write',
  min: 2,
  max: -1,
  perm: Perm.write,
  usage: '[-Cfiquz] [-P pattern] off len [len..]',
  summary: 'asynchronously writes a number of bytes',
  run(session, argv) {
    let machine = false
    let quiet = false
    let zeroes = false
    let registered = false
    let flags = 0
    let pattern = writeFill
    let operands: string[]
    try {
      operands = readOptions(session, aioWrite, argv, 'CfiP:qruz', ({ option, argument }) => {
        switch (option) {
          case 'C':
            machine = true
            break
          case 'f':
            flags |= ReqFlags.fua
            break
          case 'i':
            throw new InvalidRequest()
          case 'P':
            pattern = patternArgument(argument)
            break
          case 'q':
            quiet = true
            break
          case 'r':
            registered = true
            break
          case 'u':
            flags |= ReqFlags.mayUnmap
            break
          case 'z':
            zeroes = true
            break
        }
      })
    } catch (error) {
      if (error instanceof InvalidRequest) {
        session.print('injecting invalid write request')
        return undefined
      }
      throw error
    }
    const [offsetText, ...lengths] = operands
    const [first] = lengths
    if (offsetText === undefined || first === undefined) {
      throw new CommandFailure(usageLine(aioWrite))
    }
    if (zeroes && lengths.length !== 1) {
      throw new CommandFailure('-z supports only a single length parameter')
    }
    if ((flags & ReqFlags.mayUnmap) !== 0 && !zeroes) {
      throw new CommandFailure('-u requires -z to be specified')
    }
    if (zeroes && registered) {
      throw new CommandFailure(registeredZeroes)
    }
    const offset = sizeArgument(offsetText)
    const bytes = zeroes ? sizeArgument(first) : vectorLength(lengths)
    const { image } = session
    const begin = performance.now()
    const buffer = new Uint8Array(zeroes ? 0 : bytes).fill(pattern)
    session.later(
      () => (zeroes ? image.writeZeroes(offset, bytes, flags) : image.write(offset, bytes, buffer, 0, flags)),
      (error) => {
        const milliseconds = performance.now() - begin
        if (error !== undefined) {
          session.print(`aio_write failed: ${session.errnoText(error)}`)
        } else if (!quiet) {
          session.write(reportText({ operation: 'wrote', milliseconds, offset, bytes, machine }))
        }
      },
    )
    return undefined
  },
}

const aioDiscard: IoCommand = {
  name: 'aio_discard',
  min: 2,
  max: -1,
  perm: Perm.write,
  usage: '[-Cq] off len',
  summary: 'asynchronously discards a number of bytes',
  run(session, argv) {
    let machine = false
    let quiet = false
    const operands = readOptions(session, aioDiscard, argv, 'Cq', ({ option }) => {
      machine ||= option === 'C'
      quiet ||= option === 'q'
    })
    const [offsetText, lengthText] = operands
    if (offsetText === undefined || lengthText === undefined || operands.length !== 2) {
      throw new CommandFailure(usageLine(aioDiscard))
    }
    const offset = sizeArgument(offsetText)
    const bytes = lengthArgument(lengthText)
    const { image } = session
    const begin = performance.now()
    session.later(
      () => image.discard(offset, bytes),
      (error) => {
        const milliseconds = performance.now() - begin
        if (error !== undefined) {
          session.print(`aio_discard failed: ${session.errnoText(error)}`)
        } else if (!quiet) {
          session.write(reportText({ operation: 'discarded ', milliseconds, offset, bytes, machine }))
        }
      },
    )
    return undefined
  },
}

const aioFlush: IoCommand = {
  name: 'aio_flush',
  min: 0,
  max: 0,
  summary: 'completes all outstanding aio requests',
  run: (session) => session.drain().then(() => undefined),
}

export const asyncCommands: readonly IoCommand[] = [aioRead, aioWrite, aioDiscard, aioFlush]
