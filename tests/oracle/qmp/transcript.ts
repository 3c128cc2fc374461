import { normalized, type Peer } from './peers.js'

/** One thing that a client does: a request, or text as it is. */
export type Step =
  | string
  | { readonly [key: string]: unknown }
  /** Text that gets this many answers. */
  | { readonly raw: string | Uint8Array; readonly answers: number }
  /** Waits until an event of this name, whose data has these members, has come. */
  | { readonly awaits: string; readonly data?: Readonly<Record<string, unknown>> }

/** Shorthand for a request. */
export function call(command: string, args?: object, id?: unknown): Step {
  return {
    execute: command,
    ...(args === undefined ? {} : { arguments: args }),
    ...(id === undefined ? {} : { id }),
  }
}

function isEvent(line: string): boolean {
  return Object.hasOwn(JSON.parse(line) as object, 'event')
}

function isAwaited(line: string, name: string, data: Readonly<Record<string, unknown>> = {}): boolean {
  const event = JSON.parse(line) as { event?: string; data?: Record<string, unknown> }
  return event.event === name && Object.entries(data).every(([key, value]) => event.data?.[key] === value)
}

/**
 * Does the steps one after the other on a connection that has negotiated, and returns what came for each:
 * events in front of the answer to the request during which they came.
 */
export async function record(peer: Peer, steps: readonly Step[], negotiate = true): Promise<string[]> {
  const lines = await peer.connect()
  const result: string[] = [normalized(await lines.next(), peer.dir)]
  const events: string[] = []
  const take = async (): Promise<string> => {
    for (;;) {
      const line = await lines.next()
      if (!isEvent(line)) {
        return line
      }
      events.push(line)
    }
  }
  if (negotiate) {
    lines.send('{"execute": "qmp_capabilities"}')
    await lines.next()
  }
  for (const step of steps) {
    if (typeof step === 'object' && 'awaits' in step) {
      const { awaits, data } = step as { awaits: string; data?: Record<string, unknown> }
      while (!events.some((line) => isAwaited(line, awaits, data))) {
        const line = await lines.next()
        events.push(line)
      }
      result.push(...events.splice(0).map((line) => normalized(line, peer.dir)))
      continue
    }
    const isRaw = typeof step === 'object' && 'raw' in step
    const text = typeof step === 'string' ? step : isRaw ? (step.raw as string) : JSON.stringify(step)
    lines.send(typeof text === 'string' ? text.replaceAll('DIR', peer.dir) : text)
    const answers = isRaw ? (step.answers as number) : 1
    for (let i = 0; i < answers; i++) {
      result.push(normalized(await take(), peer.dir))
    }
    // Events before or after the answer: which of the two is a matter of luck.
    result.push(...events.splice(0).map((line) => normalized(line, peer.dir)))
  }
  lines.socket.destroy()
  return result
}
