import { parseInteger } from '../../options/index.js'
import { sizeArgument } from './arguments.js'
import { CommandFailure, type IoCommand, usageLine } from './command.js'

const sigabrt = 6

const help: IoCommand = {
  name: 'help',
  alias: '?',
  min: 0,
  max: 1,
  noFile: true,
  usage: '[command]',
  summary: 'help for one or all commands',
  async run(session, [, name]) {
    const { details } = await import('./help.js')
    if (name === undefined) {
      for (const command of session.commands) {
        session.print(usageLine(command))
      }
      session.write("\nUse 'help commandname' for extended help.\n")
      return undefined
    }
    const command = session.findCommand(name)
    if (command === undefined) {
      throw new CommandFailure(`command ${name} not found`)
    }
    session.print(usageLine(command, name))
    session.write(details(command.name))
    return undefined
  },
}

export const programCommands: readonly IoCommand[] = [
  help,
  { name: 'quit', alias: 'q', min: 0, max: -1, noFile: true, summary: 'exit the program', run: () => 'quit' },
  {
    name: 'abort',
    min: 0,
    max: 0,
    noFile: true,
    summary: 'simulate a program crash using abort(3)',
    async run(session) {
      session.flushOutput()
      await session.context.raise?.(sigabrt)
      return undefined
    },
  },
  {
    name: 'sigraise',
    min: 1,
    max: 1,
    noFile: true,
    usage: 'signal',
    summary: 'raises a signal',
    async run(session, [, signal = '']) {
      const number = sizeArgument(signal)
      session.flushOutput()
      await session.context.raise?.(number)
      return undefined
    },
  },
  {
    name: 'sleep',
    min: 1,
    max: 1,
    noFile: true,
    summary: 'waits for the given value in milliseconds',
    async run(session, [, text = '']) {
      const milliseconds = parseInteger(text)
      if (typeof milliseconds !== 'bigint' || milliseconds < 0n) {
        throw new CommandFailure(`${text} is not a valid number`)
      }
      session.flushOutput()
      await session.context.pause?.(Number(milliseconds))
      session.deliver()
      return undefined
    },
  },
]
