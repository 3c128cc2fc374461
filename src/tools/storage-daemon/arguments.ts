import { Getopt, type LongOption } from '../getopt.js'

const longOptions: readonly LongOption[] = [
  ...['blockdev', 'chardev'].map((name) => ({ name, argument: true, value: name })),
  { name: 'daemonize', argument: false, value: 'daemonize' },
  { name: 'export', argument: true, value: 'export' },
  { name: 'help', argument: false, value: 'h' },
  ...['metrics', 'monitor', 'nbd-server', 'object', 'pidfile'].map((name) => ({
    name,
    argument: true,
    value: name,
  })),
  { name: 'trace', argument: true, value: 'T' },
  { name: 'version', argument: false, value: 'V' },
]

/** One option of the command line. */
export interface DaemonArgument {
  /** Its long name, `h`, `V` or `T`; `?`: it is none, and the message is out; `operand`: it is no option. */
  readonly option: string
  readonly value: string
  /** As it was written, for messages. */
  readonly place: string
}

/** Options that are looked at before any other. */
const early = new Set(['?', 'h', 'V', 'daemonize', 'pidfile'])

/** The arguments in their order, split into those that are looked at first and the others. */
export function readArguments(
  program: string,
  argv: readonly string[],
  message: (text: string) => void,
): { readonly early: readonly DaemonArgument[]; readonly inOrder: readonly DaemonArgument[] } {
  const first: DaemonArgument[] = []
  const rest: DaemonArgument[] = []
  const getopt = new Getopt([program, ...argv], '+hT:V', longOptions, message)
  for (;;) {
    const start = getopt.index
    const parsed = getopt.next()
    if (parsed === undefined) {
      const operand = getopt.argv[getopt.index]
      if (operand === undefined || getopt.argv[getopt.index - 1] === '--') {
        return { early: first, inOrder: rest }
      }
      getopt.index++
      rest.push({ option: 'operand', value: operand, place: operand })
      continue
    }
    const { option, argument } = parsed
    const place = getopt.argv.slice(start, getopt.index).join(' ')
    const list = early.has(option) ? first : rest
    list.push({ option, value: argument, place })
    if (option === '?' || option === 'h' || option === 'V') {
      // What follows is not looked at any more.
      return { early: first, inOrder: rest }
    }
  }
}
