import { logSectorBytes } from './layout.js'
import { entryLength, type LogEntry, parseEntry } from './log-entry.js'

/** How often the log may be read over before it is taken for an attack. */
const maxPasses = 16

/**
 * The entries that have to be replayed, oldest first: of the valid sequences in the ring the one with the
 * greatest sequence number. `undefined`: looking costs more than any real log does.
 */
export function activeSequence(log: Uint8Array, logGuid: Uint8Array): LogEntry[] | undefined {
  let best: LogEntry[] = []
  let budget = log.length * maxPasses
  const entryAt = (at: number): LogEntry | undefined => {
    const length = entryLength(log.subarray(at, at + logSectorBytes), logGuid, log.length)
    if (length === undefined) {
      return undefined
    }
    budget -= length
    const straight = log.subarray(at, at + length)
    if (straight.length === length) {
      return parseEntry(straight)
    }
    const joined = new Uint8Array(length)
    joined.set(straight)
    joined.set(log.subarray(0, length - straight.length), straight.length)
    return parseEntry(joined)
  }
  for (let start = 0; start < log.length; ) {
    const sequence: LogEntry[] = []
    const starts: number[] = []
    let at = start
    let bytes = 0
    for (;;) {
      const entry = entryAt(at)
      const last = sequence.at(-1)
      if (budget < 0) {
        return undefined
      }
      if (entry === undefined || (last !== undefined && entry.sequence !== last.sequence + 1)) {
        break
      }
      bytes += entry.length
      if (bytes > log.length) {
        break
      }
      sequence.push(entry)
      starts.push(at)
      at = (at + entry.length) % log.length
    }
    const head = sequence.at(-1)
    if (head !== undefined && head.sequence > (best.at(-1)?.sequence ?? 0)) {
      // What lies before the head's tail was carried out long ago.
      best = sequence.slice(Math.max(0, starts.indexOf(head.tail)))
    }
    start = head === undefined || at <= start ? start + logSectorBytes : at
  }
  return best
}
