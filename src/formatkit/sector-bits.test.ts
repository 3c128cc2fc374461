import { expect, test } from 'vitest'
import { bitIsSet, bitRun, highFirst, lowFirst, setBits } from './sector-bits.js'

test('the first sector is the highest bit or the lowest', () => {
  const bits = new Uint8Array(4)
  setBits(bits, 6, 11, highFirst)
  expect([...bits]).toEqual([0x03, 0xff, 0x80, 0])
  bits.fill(0)
  setBits(bits, 6, 11, lowFirst)
  expect([...bits]).toEqual([0xc0, 0xff, 0x01, 0])
})

test.each([highFirst, lowFirst] as const)('runs are as long as a loop says (order %i)', (order) => {
  let state = 1
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
  for (let round = 0; round < 200; round++) {
    const bits = new Uint8Array(16)
    const model = Array.from({ length: 128 }, () => false)
    for (let i = 0; i < 4; i++) {
      const first = Math.floor(random() * 128)
      const count = Math.min(128 - first, 1 + Math.floor(random() * 40))
      setBits(bits, first, count, order)
      model.fill(true, first, first + count)
    }
    const from = Math.floor(random() * 128)
    const limit = from + 1 + Math.floor(random() * (128 - from))
    let run = 1
    while (from + run < limit && model[from + run] === model[from]) {
      run++
    }
    expect(model.map((_, index) => bitIsSet(bits, index, order))).toEqual(model)
    expect(bitRun(bits, from, limit, order)).toBe(run)
  }
})
