import { describe, expect, test } from 'vitest'
import { FakeClock } from '../testing/index.js'
import { type ThrottleDirection, ThrottleGroup, type ThrottleMember } from './throttle-group.js'
import { isThrottled, type ThrottleValues, throttleLimits } from './throttle-limits.js'

function group(values: ThrottleValues): { clock: FakeClock; group: ThrottleGroup } {
  const clock = new FakeClock()
  return { clock, group: new ThrottleGroup('g', throttleLimits(values), clock) }
}

/** A user that always has `depth` requests of `bytes` under way, and what got through. */
function load(
  member: ThrottleMember,
  direction: ThrottleDirection,
  bytes: number,
  depth: number,
): { requests: number; bytes: number; stop: () => void } {
  let going = true
  const done = {
    requests: 0,
    bytes: 0,
    stop: () => {
      going = false
    },
  }
  const run = async (): Promise<void> => {
    while (going) {
      await member.admit(direction, bytes)
      done.requests++
      done.bytes += bytes
      await Promise.resolve()
      // A request takes no time of this clock: whoever is let through at once must not run forever.
      if (done.requests > 1e6) {
        throw new Error('not throttled at all')
      }
    }
  }
  for (let i = 0; i < depth; i++) {
    void run()
  }
  return done
}

describe('rates over simulated time', () => {
  const cases: [string, ThrottleValues, ThrottleDirection, number, number][] = [
    // limits, direction, request bytes, expected requests a second
    ['bps-total, reads', { 'bps-total': 1e6 }, 'read', 4096, 1e6 / 4096],
    ['bps-total, writes', { 'bps-total': 1e6 }, 'write', 65536, 1e6 / 65536],
    ['bps-read', { 'bps-read': 2e6 }, 'read', 4096, 2e6 / 4096],
    ['bps-write', { 'bps-write': 5e5 }, 'write', 512, 5e5 / 512],
    ['iops-total', { 'iops-total': 500 }, 'read', 1 << 20, 500],
    ['iops-write', { 'iops-write': 123 }, 'write', 512, 123],
    ['the tighter of two', { 'iops-total': 100, 'bps-total': 1e9 }, 'read', 4096, 100],
    ['iops-size', { 'iops-total': 1000, 'iops-size': 4096 }, 'write', 16384, 250],
    ['iops-size and a small request', { 'iops-total': 1000, 'iops-size': 4096 }, 'write', 512, 1000],
  ]
  test.each(cases)('%s', async (_name, values, direction, bytes, expected) => {
    const { clock, group: g } = group(values)
    const done = load(g.join(), direction, bytes, 4)
    await clock.advance(5)
    // The first tenth of a second goes at once.
    const start = done.requests
    await clock.advance(100)
    done.stop()
    expect((done.requests - start) / 100 / expected).toBeGreaterThan(0.99)
    expect((done.requests - start) / 100 / expected).toBeLessThan(1.01)
  })

  test('reads and writes share a total evenly, and neither starves', async () => {
    const { clock, group: g } = group({ 'bps-total': 1e6 })
    const member = g.join()
    const reads = load(member, 'read', 4096, 8)
    const writes = load(member, 'write', 4096, 8)
    await clock.advance(100)
    expect((reads.bytes + writes.bytes) / 1e8).toBeCloseTo(1, 2)
    expect(reads.bytes / writes.bytes).toBeGreaterThan(0.9)
    expect(reads.bytes / writes.bytes).toBeLessThan(1.1)
  })

  test('what is not limited runs free', () => {
    const { group: g } = group({ 'bps-write': 1 })
    const member = g.join()
    for (let i = 0; i < 1000; i++) {
      expect(member.admit('read', 1e6)).toBeUndefined()
    }
  })
})

describe('bursts', () => {
  test('of a second: max at once, then the average', async () => {
    const { clock, group: g } = group({ 'iops-total': 100, 'iops-total-max': 1000 })
    const done = load(g.join(), 'write', 512, 1)
    await clock.advance(0)
    // The request that makes the bucket run over still goes.
    expect(done.requests).toBe(1001)
    await clock.advance(10)
    expect(done.requests).toBeGreaterThanOrEqual(1990)
    expect(done.requests).toBeLessThanOrEqual(2012)
  })

  test('of several seconds: max for that long, then the average', async () => {
    const { clock, group: g } = group({
      'iops-total': 100,
      'iops-total-max': 1000,
      'iops-total-max-length': 10,
    })
    const done = load(g.join(), 'read', 512, 1)
    await clock.advance(5)
    expect(done.requests / 5000).toBeGreaterThan(0.99)
    expect(done.requests / 5000).toBeLessThan(1.03)
    // 10 seconds' worth at 1000, of which 100 a second leak meanwhile.
    await clock.advance(95)
    expect(done.requests / (10_000 + 100 * 100)).toBeCloseTo(1, 2)
  })

  test('can be had again after a rest', async () => {
    const { clock, group: g } = group({ 'iops-total': 100, 'iops-total-max': 1000 })
    const member = g.join()
    const first = load(member, 'write', 512, 1)
    await clock.advance(1)
    first.stop()
    await clock.advance(20)
    const second = load(member, 'write', 512, 1)
    await clock.advance(0)
    expect(second.requests).toBeGreaterThanOrEqual(1000)
  })
})

describe('members', () => {
  test('take turns however much each asks for', async () => {
    const { clock, group: g } = group({ 'iops-total': 300 })
    const loads = [
      load(g.join(), 'read', 512, 1),
      load(g.join(), 'read', 512, 16),
      load(g.join(), 'read', 512, 4),
    ]
    await clock.advance(100)
    for (const done of loads) {
      expect(done.requests / 10_000).toBeGreaterThan(0.98)
      expect(done.requests / 10_000).toBeLessThan(1.02)
    }
  })

  test('keep the order of their own requests', async () => {
    const { clock, group: g } = group({ 'iops-total': 10 })
    const member = g.join()
    const order: number[] = []
    for (let i = 0; i < 20; i++) {
      void Promise.resolve(member.admit('read', 1)).then(() => order.push(i))
    }
    await clock.advance(5)
    expect(order).toEqual(Array.from({ length: 20 }, (_, i) => i))
  })

  test('who leaves lets everything go; the others go on', async () => {
    const { clock, group: g } = group({ 'iops-total': 10 })
    const [a, b] = [g.join(), g.join()]
    let gone = 0
    for (let i = 0; i < 50; i++) {
      void Promise.resolve(a.admit('write', 1)).then(() => gone++)
    }
    const others = load(b, 'write', 1, 1)
    a.leave()
    await clock.advance(0)
    expect(gone).toBe(50)
    expect(g.members).toEqual([b])
    expect(g.inUse).toBe(true)
    await clock.advance(100)
    // What went without waiting is made up for.
    expect(others.requests).toBeGreaterThan(930)
    expect(others.requests).toBeLessThan(1002)
    b.leave()
    expect(g.inUse).toBe(false)
  })

  test('limits can be lifted for one, as while it is drained', async () => {
    const { clock, group: g } = group({ 'iops-total': 1 })
    const member = g.join()
    let through = 0
    for (let i = 0; i < 10; i++) {
      void Promise.resolve(member.admit('write', 1)).then(() => through++)
    }
    await clock.advance(0)
    expect(through).toBeLessThan(10)
    member.liftLimits()
    await clock.advance(0)
    expect(through).toBe(10)
    expect(member.admit('write', 1)).toBeUndefined()
    member.restoreLimits()
    expect(member.admit('write', 1)).toBeInstanceOf(Promise)
  })
})

test('new limits hold for those who wait', async () => {
  const { clock, group: g } = group({ 'iops-total': 1 })
  const done = load(g.join(), 'read', 1, 1)
  await clock.advance(10)
  expect(done.requests).toBeLessThan(13)
  g.limits = throttleLimits({ 'iops-total': 1000 })
  await clock.advance(10)
  expect(done.requests).toBeGreaterThan(9900)
  done.stop()
  g.limits = throttleLimits({})
  expect(isThrottled(g.limits)).toBe(false)
  await clock.advance(0)
  expect(g.members[0]?.admit('read', 1e12)).toBeUndefined()
})

test('a timer that fires early does not make it faster', async () => {
  const clock = new FakeClock()
  const hasty = {
    now: () => clock.now(),
    after: (nanoseconds: number, callback: () => void) => clock.after(nanoseconds * 0.7, callback),
  }
  const g = new ThrottleGroup('g', throttleLimits({ 'iops-total': 100 }), hasty)
  const done = load(g.join(), 'read', 1, 2)
  await clock.advance(20)
  expect(done.requests / 2000).toBeGreaterThan(0.99)
  expect(done.requests / 2000).toBeLessThan(1.01)
})
