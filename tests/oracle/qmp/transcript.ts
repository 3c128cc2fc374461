import { spawn } from 'node:child_process'
import { normalized, type Peer } from './peers.js'

/** One thing that a client does: a request, or text as it is. */
export type Step =
  | string
  | { readonly [key: string]: unknown }
  /** Text that gets this many answers. */
  | { readonly raw: string | Uint8Array; readonly answers: number }
  /** Waits until an event of this name, whose data has these members, has come. */
  | { readonly awaits: string; readonly data?: Readonly<Record<string, unknown>> }
  /** Runs another program to its end; its exit code is recorded. */
  | { readonly runs: readonly string[] }

/** Shorthand for a request. */
export function call(command: string, args?: object, id?: unknown): Step {
  return {
    execute: command,
    ...(args === undefined ? {} : { arguments: args }),
    ...(id === undefined ? {} : { id }),
  }
}

/** Lets a client of the NBD server at `nbd.sock` do what `commands` of qemu-io say to the export called `name`. */
export function guest(name: string, ...commands: string[]): Step {
  return {
    runs: [
      ...['qemu-io', '-f', 'raw', ...commands.flatMap((text) => ['-c', text])],
      `nbd+unix:///${name}?socket=DIR/nbd.sock`,
    ],
  }
}

async function exitCode(program: string, args: readonly string[]): Promise<number> {
  return await new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: 'ignore' })
    child.once('error', reject)
    child.once('exit', (code) => resolve(code ?? -1))
  })
}

/** What became of a request. */
export interface Exchange {
  /** Absent: it was no request, or its text was given as it is. */
  readonly command: string | undefined
  readonly isGood: boolean
}

/** The exchanges of a recording, without greeting, events and other programs. */
export function exchangesOf(steps: readonly Step[], lines: readonly string[]): Exchange[] {
  const result: Exchange[] = []
  let at = 1
  for (const step of steps) {
    if (typeof step === 'object' && 'awaits' in step) {
      continue
    }
    if (typeof step === 'object' && 'runs' in step) {
      at++
      continue
    }
    const execute = typeof step === 'object' && 'execute' in step ? step.execute : undefined
    const count = typeof step === 'object' && 'raw' in step ? (step.answers as number) : 1
    for (let i = 0; i < count; i++) {
      const isGood = Object.hasOwn(JSON.parse(lines[at++] ?? '{}') as object, 'return')
      result.push({ command: typeof execute === 'string' ? execute : undefined, isGood })
    }
  }
  return result
}

function isEvent(line: string): boolean {
  return Object.hasOwn(JSON.parse(line) as object, 'event')
}

function isAwaited(line: string, name: string, data: Readonly<Record<string, unknown>> = {}): boolean {
  const event = JSON.parse(line) as { event?: string; data?: Record<string, unknown> }
  return event.event === name && Object.entries(data).every(([key, value]) => event.data?.[key] === value)
}

/**
 * Does the steps one after the other on a connection that has negotiated. Returns the answers in their order,
 * then the events in theirs: how the two lie to each other is a matter of luck.
 */
export async function record(peer: Peer, steps: readonly Step[], negotiate = true): Promise<string[]> {
  const lines = await peer.connect()
  const answers: string[] = [await lines.next()]
  const events: string[] = []
  /** Events before this one came before the last request, or have been waited for. */
  let seen = 0
  if (negotiate) {
    lines.send('{"execute": "qmp_capabilities"}')
    await lines.next()
  }
  const answer = async (): Promise<string> => {
    for (;;) {
      const line = await lines.next()
      if (!isEvent(line)) {
        return line
      }
      events.push(line)
    }
  }
  for (const step of steps) {
    if (typeof step === 'object' && 'awaits' in step) {
      const { awaits, data } = step as { awaits: string; data?: Record<string, unknown> }
      for (;;) {
        const found = events.findIndex((line, at) => at >= seen && isAwaited(line, awaits, data))
        if (found >= 0) {
          seen = found + 1
          break
        }
        events.push(await lines.next())
      }
      continue
    }
    if (typeof step === 'object' && 'runs' in step) {
      const [program = '', ...args] = (step.runs as string[]).map((text) => text.replaceAll('DIR', peer.dir))
      answers.push(JSON.stringify({ ran: program, code: await exitCode(program, args) }))
      continue
    }
    seen = events.length
    const isRaw = typeof step === 'object' && 'raw' in step
    const text = typeof step === 'string' ? step : isRaw ? (step.raw as string) : JSON.stringify(step)
    lines.send(typeof text === 'string' ? text.replaceAll('DIR', peer.dir) : text)
    const count = isRaw ? (step.answers as number) : 1
    for (let i = 0; i < count; i++) {
      answers.push(await answer())
    }
  }
  lines.socket.destroy()
  return [...answers, ...withoutRests(events)].map((line) => normalized(line, peer.dir))
}

/** Leaves out where a job paused because others changed the graph: that is a matter of luck as well. */
function withoutRests(events: readonly string[]): string[] {
  const result: string[] = []
  for (const line of events) {
    const before = result.at(-1)
    if (before !== undefined && isAwaited(before, 'JOB_STATUS_CHANGE', { status: 'paused' })) {
      result.pop()
    } else {
      result.push(line)
    }
  }
  return result
}

/** What two daemons said, where it differs: each line of theirs with ours below. */
export function differences(theirs: readonly string[], ours: readonly string[]): string[] {
  const result: string[] = []
  for (let at = 0; at < Math.max(theirs.length, ours.length); at++) {
    if (theirs[at] !== ours[at]) {
      result.push(`${at} theirs: ${theirs[at] ?? 'nothing'}`, `${at} ours:   ${ours[at] ?? 'nothing'}`)
    }
  }
  return result
}
