import { expect, test } from 'vitest'
import { IoAccounting } from './accounting.js'
import { LatencyHistogram } from './latency-histogram.js'
import { TimedAverage } from './timed-average.js'

function manual() {
  const time = { now: 1000 }
  return { time, clock: () => time.now }
}

test('a request counts once it is done, with its bytes and its time', async () => {
  const { time, clock } = manual()
  const accounting = new IoAccounting({ clock })
  expect(accounting.idleTime).toBeUndefined()
  expect(
    accounting.run('read', 512, () => {
      time.now += 30
      return undefined
    }),
  ).toBeUndefined()
  let finish = (): void => undefined
  const wait = accounting.run('read', 100, () => new Promise<void>((resolve) => (finish = resolve)))
  expect(accounting.counters.read.operations).toBe(1)
  time.now += 70
  finish()
  await wait
  expect(accounting.counters.read).toEqual({
    bytes: 612,
    operations: 2,
    merged: 0,
    failed: 0,
    invalid: 0,
    totalTime: 100,
  })
  time.now += 5
  expect(accounting.idleTime).toBe(5)
})

test('failed requests have times only if that is wanted, and never bytes', async () => {
  for (const accountFailed of [true, false]) {
    const { time, clock } = manual()
    const accounting = new IoAccounting({ clock, accountFailed })
    const fail = (): never => {
      time.now += 10
      throw new Error('no')
    }
    expect(() => accounting.run('write', 5, fail)).toThrow('no')
    await expect(accounting.run('write', 5, () => Promise.reject(new Error('later')))).rejects.toThrow(
      'later',
    )
    const { bytes, operations, failed, totalTime } = accounting.counters.write
    expect([bytes, operations, failed, totalTime]).toEqual([0, 0, 2, accountFailed ? 10 : 0])
    expect(accounting.idleTime === undefined).toBe(!accountFailed)
  }
})

test('invalid and merged requests are counted apart', () => {
  const accounting = new IoAccounting({ accountInvalid: false })
  accounting.invalid('unmap')
  accounting.merged('write', 3)
  expect([accounting.counters.unmap.invalid, accounting.counters.write.merged]).toEqual([1, 3])
  expect(accounting.idleTime).toBeUndefined()
})

test('a histogram counts into [previous, next) and refuses boundaries that do not ascend', () => {
  const histogram = new LatencyHistogram([10, 50, 100])
  for (const latency of [0, 9, 10, 49, 50, 99, 100, 1e9]) {
    histogram.account(latency)
  }
  expect(histogram.bins).toEqual([2, 2, 2, 2])
  for (const wrong of [[], [0], [5, 5], [7, 3]]) {
    expect(() => new LatencyHistogram(wrong)).toThrow('Invalid argument')
  }
})

test('averages cover between half a period and a whole one', () => {
  const average = new TimedAverage(100, 0)
  average.account(10, 10)
  average.account(30, 20)
  expect(average.figures(40)).toEqual({ min: 10, max: 30, average: 20, sum: 40, elapsed: 90 })
  // The half window ends at 50, the whole one at 100.
  average.account(50, 60)
  expect(average.figures(60)).toEqual({ min: 10, max: 50, average: 30, sum: 90, elapsed: 60 })
  expect(average.figures(110)).toEqual({ min: 50, max: 50, average: 50, sum: 50, elapsed: 60 })
  expect(average.figures(1000)).toMatchObject({ min: 0, max: 0, average: 0, sum: 0 })
})

test('intervals must be positive', () => {
  expect(() => new IoAccounting({ intervals: [0] })).toThrow('Invalid interval length: 0')
})
