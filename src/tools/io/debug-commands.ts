import { isSuspended, removeBreakpoint, resumeRequest, setBreakpoint } from '../../graph/index.js'
import { CommandFailure, type IoCommand } from './command.js'
import type { IoSession } from './session.js'

/** Does `work`, or fails with `text` and the errno's. */
function attemptDebug(session: IoSession, text: string, work: () => void): undefined {
  try {
    work()
  } catch (error) {
    throw new CommandFailure(`${text}: ${session.errnoText(error)}`)
  }
  return undefined
}

export const debugCommands: readonly IoCommand[] = [
  {
    name: 'break',
    min: 2,
    max: 2,
    usage: 'event tag',
    summary: 'sets a breakpoint on event and tags the stopped request as tag',
    run: (session, [, event = '', tag = '']) =>
      attemptDebug(session, 'Could not set breakpoint', () => setBreakpoint(session.image.node, event, tag)),
  },
  {
    name: 'remove_break',
    min: 1,
    max: 1,
    usage: 'tag',
    summary: 'remove a breakpoint by tag',
    run: (session, [, tag = '']) =>
      attemptDebug(session, `Could not remove breakpoint ${tag}`, () =>
        removeBreakpoint(session.image.node, tag),
      ),
  },
  {
    name: 'resume',
    min: 1,
    max: 1,
    usage: 'tag',
    summary: 'resumes the request tagged as tag',
    run: (session, [, tag = '']) =>
      attemptDebug(session, 'Could not resume request', () => resumeRequest(session.image.node, tag)),
  },
  {
    name: 'wait_break',
    min: 1,
    max: 1,
    usage: 'tag',
    summary: 'waits for the suspension of a request',
    async run(session, [, tag = '']) {
      while (!isSuspended(session.image.node, tag)) {
        session.context.signal.throwIfAborted()
        await session.context.pause?.(1)
        session.deliver()
      }
      return undefined
    },
  },
]
