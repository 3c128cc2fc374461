import { type OpenFlags, Perm, parseCacheMode, parseDiscard, reopenNode } from '../../graph/index.js'
import { OptionDict, parseImageOptions } from '../../options/index.js'
import { CommandFailure, type IoCommand, readOptions, usageLine } from './command.js'
import type { IoSession } from './session.js'

/** How an image shall be opened, as the letters that the command line and `open` share say it. */
export class OpenMode {
  readOnly = false
  forceShare = false
  writeThrough = true
  readonly flags: Partial<OpenFlags> = {}
  direct: boolean | undefined
  noFlush: boolean | undefined

  constructor(writeThrough: boolean) {
    this.writeThrough = writeThrough
  }

  /** Takes an option; the text of the error if its argument is wrong. */
  take(option: string, argument: string): string | undefined {
    switch (option) {
      case 'r':
        this.readOnly = true
        break
      case 's':
        this.flags.snapshot = true
        break
      case 'C':
        this.flags.copyOnRead = true
        break
      case 'U':
        this.forceShare = true
        break
      case 'n':
        return this.take('t', 'none')
      case 'k':
        return this.take('i', 'native')
      case 'i':
        if (argument !== 'threads' && argument !== 'native' && argument !== 'io_uring') {
          return `Invalid aio option: ${argument}`
        }
        this.flags.aio = argument
        break
      case 't': {
        const mode = parseCacheMode(argument)
        if (mode === undefined) {
          return `Invalid cache option: ${argument}`
        }
        this.writeThrough = mode.writeThrough
        this.direct = mode.direct
        this.noFlush = mode.noFlush
        break
      }
      case 'd':
        try {
          this.flags.unmap = parseDiscard(argument)
        } catch {
          return `Invalid discard option: ${argument}`
        }
        break
    }
    return undefined
  }

  /** Opens the image; says why if it cannot. */
  open(session: IoSession, name: string | undefined, options: OptionDict): Promise<boolean> {
    if (this.direct !== undefined) {
      options.setDefault('cache.direct', this.direct)
    }
    if (this.noFlush !== undefined) {
      options.setDefault('cache.no-flush', this.noFlush)
    }
    return session.open(name, options, { ...this.flags, write: !this.readOnly }, this)
  }
}

/** Adds the options in `text`; says what is wrong with them. */
function addOptions(session: IoSession, options: OptionDict, text: string): void {
  const parsed = parseImageOptions(text, 'flag')
  for (const warning of parsed.warnings) {
    session.error(`warning: ${warning.text}`)
    session.stderr(`${warning.hint}\n`)
  }
  options.join(parsed.options, true)
}

const open: IoCommand = {
  name: 'open',
  alias: 'o',
  min: 1,
  max: -1,
  noFile: true,
  usage: '[-rsCnkU] [-t cache] [-d discard] [-o options] [path]',
  summary: 'open the file specified by path',
  async run(session, argv) {
    const mode = new OpenMode(true)
    mode.flags.unmap = true
    const options = new OptionDict()
    const operands = readOptions(session, open, argv, 'snCro:ki:t:d:U', ({ option, argument }) => {
      if (option === 'o') {
        addOptions(session, options, argument)
        return
      }
      const wrong = mode.take(option, argument)
      if (wrong !== undefined) {
        session.error(wrong)
        throw new CommandFailure()
      }
    })
    if (operands.length > 1) {
      throw new CommandFailure(usageLine(open))
    }
    if (!(await mode.open(session, operands[0], options))) {
      throw new CommandFailure()
    }
    return undefined
  },
}

const close: IoCommand = {
  name: 'close',
  alias: 'c',
  min: 0,
  max: 0,
  summary: 'close the current open file',
  run: (session) => session.close().then(() => undefined),
}

const reopen: IoCommand = {
  name: 'reopen',
  min: 0,
  max: -1,
  usage: '[(-r|-w)] [-c cache] [-o options]',
  summary: 'reopens an image with new options',
  async run(session, argv) {
    const { image } = session
    const refuse = (text: string): never => {
      session.error(text)
      throw new CommandFailure()
    }
    let readOnly: boolean | undefined
    let cache: ReturnType<typeof parseCacheMode>
    const options = new OptionDict()
    const operands = readOptions(session, reopen, argv, 'c:o:rw', ({ option, argument }) => {
      switch (option) {
        case 'c':
          cache = parseCacheMode(argument) ?? refuse(`Invalid cache option: ${argument}`)
          break
        case 'o':
          addOptions(session, options, argument)
          break
        default:
          if (readOnly !== undefined) {
            refuse('Only one -r/-w option may be given')
          }
          readOnly = option === 'r'
      }
    })
    if (operands.length > 0) {
      throw new CommandFailure(usageLine(reopen))
    }
    const { node } = image
    const toReadOnly = readOnly ?? !node.flags.write
    if (toReadOnly) {
      await image.setPermissions(image.perm & ~(Perm.write | Perm.writeUnchanged), image.shared)
    }
    if (!options.has('read-only')) {
      options.set('read-only', toReadOnly)
    } else if (readOnly !== undefined) {
      refuse("Cannot set both -r/-w and 'read-only'")
    }
    if (options.has('cache.direct') || options.has('cache.no-flush')) {
      if (cache !== undefined) {
        refuse('Cannot set both -c and the cache options')
      }
    } else if (cache !== undefined) {
      options.set('cache.direct', cache.direct)
      options.set('cache.no-flush', cache.noFlush)
    }
    await session.drain()
    await reopenNode(node, options)
    if (cache !== undefined) {
      image.writeThrough = cache.writeThrough
    }
    return undefined
  },
}

export const fileCommands: readonly IoCommand[] = [open, close, reopen]
