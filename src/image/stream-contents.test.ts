import fc from 'fast-check'
import { expect, test } from 'vitest'
import { RecordedContents } from './stream-contents.js'

const size = 400_000
const source = new Uint8Array(size).map((_, i) => 1 + (i % 251))

type Step =
  | { kind: 'refer'; offset: number; bytes: number; from: number }
  | { kind: 'write'; offset: number; bytes: number; value: number }
  | { kind: 'zero'; offset: number; bytes: number }
  | { kind: 'truncate'; length: number }

const range = { offset: fc.nat(size / 2), bytes: fc.integer({ min: 1, max: size / 4 }) }
const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    fc.record({ kind: fc.constant('refer' as const), ...range, from: fc.nat(size / 2) }),
    fc.record({ kind: fc.constant('write' as const), ...range, value: fc.nat(255) }),
    fc.record({ kind: fc.constant('zero' as const), ...range }),
    fc.record({ kind: fc.constant('truncate' as const), length: fc.nat(size / 2) }),
  ),
  { maxLength: 20 },
)

/** What the recorded file holds. */
function read(contents: RecordedContents): Uint8Array {
  const bytes = new Uint8Array(contents.size)
  for (let at = 0; at < bytes.length; ) {
    const run = contents.runAt(at, bytes.length - at)
    expect(run.bytes).toBeGreaterThan(0)
    if (run.source === undefined) {
      contents.readPages(at, run.bytes, bytes, at)
      if (run.hole) {
        expect(bytes.subarray(at, at + run.bytes).every((byte) => byte === 0)).toBe(true)
      }
    } else {
      bytes.set(source.subarray(run.source, run.source + run.bytes), at)
    }
    at += run.bytes
  }
  return bytes
}

test('whatever is recorded, the last one counts', () => {
  fc.assert(
    fc.property(steps, (history) => {
      const contents = new RecordedContents()
      let model = new Uint8Array(0)
      const grow = (length: number): void => {
        const next = new Uint8Array(Math.max(length, model.length))
        next.set(model)
        model = next
      }
      for (const step of history) {
        if (step.kind === 'truncate') {
          contents.truncate(step.length)
          model = model.slice(0, step.length)
          grow(step.length)
          continue
        }
        const { offset, bytes } = step
        grow(offset + bytes)
        if (step.kind === 'refer') {
          contents.refer(offset, bytes, step.from)
          model.set(source.subarray(step.from, step.from + bytes), offset)
        } else if (step.kind === 'write') {
          const data = new Uint8Array(bytes + 3).fill(step.value)
          contents.write(offset, bytes, data, 3)
          model.fill(step.value, offset, offset + bytes)
        } else {
          contents.zero(offset, bytes)
          model.fill(0, offset, offset + bytes)
        }
      }
      expect(contents.size).toBe(model.length)
      expect(Buffer.compare(read(contents), model)).toBe(0)
    }),
  )
})
