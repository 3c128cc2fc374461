import { isBlockError } from '../../errors/index.js'
import { OptionDict, parseImageOptions } from '../../options/index.js'
import { type ToolContext, ToolExit } from '../context.js'
import { driverLine } from '../driver-line.js'
import { Getopt, type LongOption } from '../getopt.js'
import { addObject } from '../objects.js'
import { allCommands } from './commands.js'
import { OpenMode } from './file-commands.js'
import { IoSession } from './session.js'

const longOptions: readonly LongOption[] = [
  { name: 'help', argument: false, value: 'h' },
  { name: 'version', argument: false, value: 'V' },
  { name: 'cmd', argument: true, value: 'c' },
  { name: 'format', argument: true, value: 'f' },
  { name: 'read-only', argument: false, value: 'r' },
  { name: 'snapshot', argument: false, value: 's' },
  { name: 'nocache', argument: false, value: 'n' },
  { name: 'copy-on-read', argument: false, value: 'C' },
  { name: 'misalign', argument: false, value: 'm' },
  { name: 'native-aio', argument: false, value: 'k' },
  { name: 'aio', argument: true, value: 'i' },
  { name: 'discard', argument: true, value: 'd' },
  { name: 'cache', argument: true, value: 't' },
  { name: 'trace', argument: true, value: 'T' },
  { name: 'force-share', argument: false, value: 'U' },
  { name: 'object', argument: true, value: 'object' },
  { name: 'image-opts', argument: false, value: 'image-opts' },
]

/**
 * `qemu-io`: runs a command line and returns the exit code. Nothing is thrown, and nothing stays open.
 *
 * @param argv the arguments, without the program's name
 */
export async function run(argv: readonly string[], context: ToolContext): Promise<number> {
  const { program } = context
  const layer = await context.createLayer((line) => context.stderr(driverLine(program, line)))
  const session = new IoSession(context, layer, allCommands)
  let code: number
  try {
    code = await dispatch(argv, session)
  } catch (error) {
    code = failure(error, session)
  }
  try {
    await session.close()
    await layer.closeAll()
  } catch (error) {
    code = failure(error, session)
  }
  session.flushOutput()
  return code
}

function failure(error: unknown, session: IoSession): number {
  if (error instanceof ToolExit) {
    return error.code
  }
  if (isBlockError(error)) {
    session.report(error)
  } else if (!session.context.signal.aborted) {
    session.error(`internal error: ${error instanceof Error ? error.message : String(error)}`)
  }
  return 1
}

async function dispatch(argv: readonly string[], session: IoSession): Promise<number> {
  const { context } = session
  const { helpText, versionText } = await import('./help.js')
  const wrong = (text: string): never => {
    session.error(text)
    throw new ToolExit(1)
  }
  const mode = new OpenMode(true)
  mode.flags.unmap = true
  const commands: string[] = []
  let format: string | undefined
  let imageOpts = false
  const messages = (text: string) => context.stderr(`${text}\n`)
  const getopt = new Getopt([context.program, ...argv], 'hVc:d:f:rsnCmki:t:T:U', longOptions, messages)
  for (let next = getopt.next(); next !== undefined; next = getopt.next()) {
    switch (next.option) {
      case '?':
        session.write(helpText(context.program))
        return 1
      case 'h':
        session.write(helpText(context.program))
        return 0
      case 'V':
        session.write(versionText(context.program))
        return 0
      case 'c':
        commands.push(next.argument)
        break
      case 'f':
        format = next.argument
        break
      case 'image-opts':
        imageOpts = true
        break
      case 'object': {
        const lines = await addObject(session.layer, next.argument)
        if (lines !== undefined) {
          session.print(lines.join('\n'))
          return 0
        }
        break
      }
      default: {
        const error = mode.take(next.option, next.argument)
        if (error !== undefined) {
          wrong(error)
        }
      }
    }
  }
  const operands = getopt.operands
  if (operands.length > 1) {
    session.write(helpText(context.program))
    return 1
  }
  if (format !== undefined && imageOpts) {
    wrong('--image-opts and -f are mutually exclusive')
  }
  const [name] = operands
  if (name !== undefined && !(await openOperand(session, mode, name, format, imageOpts))) {
    return 1
  }
  return commands.length > 0 ? await runCommands(session, commands) : await runInput(session)
}

async function openOperand(
  session: IoSession,
  mode: OpenMode,
  name: string,
  format: string | undefined,
  imageOpts: boolean,
): Promise<boolean> {
  if (!imageOpts) {
    return await mode.open(session, name, OptionDict.fromTree(format === undefined ? {} : { driver: format }))
  }
  const { options, warnings } = parseImageOptions(name)
  for (const { text, hint } of warnings) {
    session.error(`warning: ${text}`)
    session.stderr(`${hint}\n`)
  }
  return await mode.open(session, undefined, options)
}

async function runCommands(session: IoSession, commands: readonly string[]): Promise<number> {
  let code = 0
  for (const command of commands) {
    const result = await session.run(command)
    if (result === 'quit') {
      break
    }
    code = result === 'failed' ? 1 : code
  }
  return code
}

/** Runs the lines of standard input, each behind a prompt. */
async function runInput(session: IoSession): Promise<number> {
  const { context } = session
  const prompt = `${context.program}> `
  let code = 0
  const runLine = (line: string) => {
    session.deliver()
    return session.run(line)
  }
  if (context.prompt !== undefined) {
    for await (const line of context.prompt(prompt)) {
      const result = await runLine(line)
      session.deliver()
      session.flushOutput()
      if (result === 'quit') {
        break
      }
      code = result === 'failed' ? 1 : code
    }
    return code
  }
  context.spareMemory?.()
  const decoder = new TextDecoder()
  let rest = ''
  session.write(prompt)
  session.flushOutput()
  for await (const chunk of context.source) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      const now = runLine(line)
      const result = now instanceof Promise ? await now : now
      if (result === 'quit') {
        return code
      }
      code = result === 'failed' ? 1 : code
      session.write(prompt)
    }
    session.flushOutput()
  }
  if (rest !== '') {
    const result = await runLine(rest)
    if (result !== 'quit') {
      session.write(prompt)
    }
    code = result === 'failed' ? 1 : code
  }
  return code
}
