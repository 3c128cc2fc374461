import fc from 'fast-check'
import { expect, test } from 'vitest'
import { IndexRanges } from './index-ranges.js'

const limit = 40

test('behaves like a set', () => {
  const range = fc
    .tuple(fc.nat(limit), fc.nat(limit))
    .map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const)
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.boolean(), range)), fc.array(fc.nat(limit)), (steps, start) => {
      const ranges = new IndexRanges()
      ranges.fill([...start])
      const model = new Set<number>(start)
      for (const [add, [from, to]] of steps) {
        if (add) {
          ranges.add(from, to)
        } else {
          ranges.remove(from, to)
        }
        for (let i = from; i < to; i++) {
          if (add) {
            model.add(i)
          } else {
            model.delete(i)
          }
        }
      }
      const members: number[] = []
      ranges.forEach((from, to) => {
        for (let i = from; i < to; i++) {
          members.push(i)
        }
      })
      expect(members).toEqual([...model].sort((a, b) => a - b))
      expect(ranges.isEmpty).toBe(model.size === 0)
      expect(ranges.end).toBe(model.size === 0 ? 0 : Math.max(...model) + 1)
      const runs = members.filter((i) => !model.has(i - 1)).length
      expect(ranges.runs).toBe(runs)
      for (let i = 0; i <= limit; i++) {
        expect(ranges.has(i)).toBe(model.has(i))
        expect(ranges.overlaps(i, i + 3)).toBe([i, i + 1, i + 2].some((at) => model.has(at)))
      }
    }),
  )
})
