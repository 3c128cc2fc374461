import { expect, test } from 'vitest'
import { giveAligned, takeAligned } from './aligned-pool.js'
import { isAligned } from './memory.js'

test('buffers are aligned, large enough, apart, and used again', () => {
  for (const bytes of [1, 4096, 4097, 65536, 1 << 20, (4 << 20) + 1]) {
    const [a, b] = [takeAligned(bytes), takeAligned(bytes)]
    for (const buffer of [a, b]) {
      expect(buffer.length).toBeGreaterThanOrEqual(bytes)
      expect(isAligned(buffer, 0, 4096)).toBe(true)
    }
    a.fill(1)
    b.fill(2)
    expect([a[0], a.at(-1), b[0], b.at(-1)]).toEqual([1, 1, 2, 2])
    giveAligned(a)
    giveAligned(b)
    const again = takeAligned(bytes)
    expect(again === b).toBe(bytes <= 4 << 20)
    giveAligned(again)
  }
})

test('what is kept is bounded', () => {
  const buffers = Array.from({ length: 8 }, () => takeAligned(4 << 20))
  for (const buffer of buffers) {
    giveAligned(buffer)
  }
  const again = Array.from({ length: 8 }, () => takeAligned(4 << 20))
  expect(again.filter((buffer) => buffers.includes(buffer)).length).toBeLessThanOrEqual(4)
})
