import type { Maybe } from '../../sched/index.js'
import { Getopt, type ParsedOption } from '../getopt.js'
import type { IoSession } from './session.js'

/** A command line of the tool, such as `read 0 512`. */
export interface IoCommand {
  readonly name: string
  readonly alias?: string
  /** Number of arguments; `max` -1 for any. */
  readonly min: number
  readonly max: number
  /** What it takes, and what it does, for the help. */
  readonly usage?: string
  readonly summary: string
  /** Lines of `help COMMAND` below its first. */
  readonly details?: string
  /** Works without an open image. */
  readonly noFile?: boolean
  /** Permissions it needs on the image, `Perm` bits. */
  readonly perm?: number
  /** `argv[0]` is the name as typed. Failures are thrown; `quit` ends the program. */
  run(session: IoSession, argv: readonly string[]): Maybe<'quit' | undefined>
}

/** A command failed; `text` is printed on standard output. */
export class CommandFailure extends Error {
  /** Undefined: it has already been said. */
  readonly text: string | undefined

  constructor(text?: string) {
    super(text ?? 'failed')
    this.name = 'CommandFailure'
    this.text = text
  }
}

/** The first line of a command's help. */
export function usageLine(command: IoCommand, name = command.name): string {
  return `${name} ${command.usage === undefined ? '' : `${command.usage} `}-- ${command.summary}`
}

/**
 * Reads the options of a command and returns its operands.
 *
 * @throws CommandFailure after an option that is none
 */
export function readOptions(
  session: IoSession,
  command: IoCommand,
  argv: readonly string[],
  letters: string,
  option: (option: ParsedOption) => void,
): string[] {
  // Most commands have no option at all.
  if (!argv.some((element, index) => index > 0 && element.startsWith('-'))) {
    return argv.slice(1)
  }
  const getopt = new Getopt(argv, letters, [], (text) => session.stderr(`${text}\n`))
  for (let next = getopt.next(); next !== undefined; next = getopt.next()) {
    if (next.option === '?' || next.option === ':') {
      throw new CommandFailure(usageLine(command))
    }
    option(next)
  }
  return getopt.operands
}
