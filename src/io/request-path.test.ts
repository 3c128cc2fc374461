import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Wait } from '../sched/index.js'
import { BlockStatus, ChainStatus, chainStatus } from './block-status.js'
import type { DirectPath, ExtentSink, MapPath, RangeResult } from './data-path.js'
import { ReqFlags } from './flags.js'
import { IoNode } from './node.js'

const size = 16384

abstract class TestNode extends IoNode {
  readonly nodeName = 'test'
  backingNode: IoNode | undefined = undefined
  filteredNode: IoNode | undefined = undefined
  flushNodes: IoNode[] = []

  constructor(length: number) {
    super()
    this.length = length
    this.readOnly = false
    this.unmapAllowed = true
  }
}

/** A device that checks what the core promises (alignment, limits) and completes after some turns. */
class Device extends TestNode {
  readonly bytes: Uint8Array
  readonly calls: string[] = []
  turns: () => number = () => 0
  canZero = true
  fail = false

  constructor(align = 1, length = size) {
    super(length)
    this.bytes = new Uint8Array(length)
    this.limits.requestAlignment = align
    const path: DirectPath = {
      read: (offset, bytes, buffer, bufferOffset) => {
        this.#check('read', offset, bytes)
        return this.#later(() => buffer.set(this.bytes.subarray(offset, offset + bytes), bufferOffset))
      },
      write: (offset, bytes, buffer, bufferOffset) => {
        this.#check('write', offset, bytes)
        const data = buffer.slice(bufferOffset, bufferOffset + bytes)
        return this.#later(() => this.bytes.set(data, offset))
      },
      zero: (offset, bytes, _flags, out: RangeResult) => {
        if (!this.canZero) {
          return undefined
        }
        this.#check('zero', offset, bytes)
        out.bytes = bytes
        return this.#later(() => this.bytes.fill(0, offset, offset + bytes))
      },
      discard: (offset, bytes, out) => {
        this.#check('discard', offset, bytes)
        out.bytes = bytes
        return undefined
      },
      status: (offset, bytes, _want, out: ExtentSink) => {
        // Zero 512-byte blocks are holes.
        for (let at = offset; at < offset + bytes; at += 512) {
          const zero = this.bytes.subarray(at, at + 512).every((byte) => byte === 0)
          if (!(zero ? out.zero(512, this, at) : out.data(512, this, at, 0))) {
            break
          }
        }
        return undefined
      },
    }
    this.direct = path
    this.flushPath = {
      flushToDisk: () => {
        this.calls.push('flush')
        return undefined
      },
    }
  }

  #check(kind: string, offset: number, bytes: number): void {
    const align = this.limits.requestAlignment
    expect([kind, offset % align, bytes % align, bytes > 0]).toEqual([kind, 0, 0, true])
    const max = this.limits.maxTransfer
    expect(max === 0 || bytes <= max || kind === 'zero' || kind === 'discard').toBe(true)
    this.calls.push(kind)
    if (this.fail) {
      throw new Error('broken device')
    }
  }

  #later(effect: () => void): Wait {
    const turns = this.turns()
    if (turns === 0) {
      effect()
      return undefined
    }
    return this.#after(turns, effect)
  }

  async #after(turns: number, effect: () => void): Promise<void> {
    for (let i = 0; i < turns; i++) {
      await Promise.resolve()
    }
    effect()
  }
}

interface Step {
  readonly kind: 'write' | 'zero' | 'read'
  readonly offset: number
  readonly bytes: number
  readonly fill: number
}

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom('write', 'zero', 'read'),
  offset: fc.nat(size - 1),
  bytes: fc.integer({ min: 1, max: 3000 }),
  fill: fc.integer({ min: 1, max: 255 }),
})

function clip(s: Step): Step {
  return { ...s, bytes: Math.min(s.bytes, size - s.offset) }
}

describe('requests against a model', () => {
  test('one at a time, any alignment, with and without efficient zeroes', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(step.map(clip), { maxLength: 30 }),
        fc.constantFrom(1, 512, 4096),
        fc.boolean(),
        fc.constantFrom(0, 1024, 4096),
        async (steps, align, canZero, maxTransfer) => {
          const device = new Device(align)
          device.canZero = canZero
          device.limits.maxTransfer = Math.max(maxTransfer, maxTransfer === 0 ? 0 : align)
          const model = new Uint8Array(size)
          for (const s of steps) {
            if (s.kind === 'write') {
              await device.write(s.offset, s.bytes, new Uint8Array(s.bytes).fill(s.fill), 0, 0)
              model.fill(s.fill, s.offset, s.offset + s.bytes)
            } else if (s.kind === 'zero') {
              await device.writeZeroes(s.offset, s.bytes, 0)
              model.fill(0, s.offset, s.offset + s.bytes)
            } else {
              const buffer = new Uint8Array(s.bytes)
              await device.read(s.offset, s.bytes, buffer, 0, 0)
              expect(buffer).toEqual(model.slice(s.offset, s.offset + s.bytes))
            }
          }
          expect(device.bytes).toEqual(model)
        },
      ),
      { numRuns: 100 },
    )
  })

  test('concurrent writes to disjoint ranges of the same blocks lose nothing', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(6), { minLength: 16, maxLength: 16 }), async (turns) => {
        const device = new Device(4096)
        let next = 0
        device.turns = () => turns[next++ % turns.length] ?? 0
        const waits: Wait[] = []
        for (let i = 0; i < 64; i++) {
          waits.push(device.write(i * 256, 256, new Uint8Array(256).fill(i + 1), 0, 0))
        }
        await Promise.all(waits)
        for (let i = 0; i < 64; i++) {
          expect([i, ...new Set(device.bytes.subarray(i * 256, (i + 1) * 256))]).toEqual([i, i + 1])
        }
        expect(device.requests.size).toBe(0)
      }),
      { numRuns: 50 },
    )
  })
})

describe('the fast path', () => {
  test('aligned requests inside the node complete without a promise', () => {
    const device = new Device(1)
    expect(device.write(0, 4096, new Uint8Array(4096).fill(3), 0, 0)).toBeUndefined()
    expect(device.read(100, 50, new Uint8Array(50), 0, 0)).toBeUndefined()
    expect(device.requests.size).toBe(0)
  })

  test('a mapped node reads and writes without a promise, too', () => {
    const file = new Device(1)
    class Mapped extends TestNode {}
    const node = new Mapped(size)
    const map: MapPath = {
      resolveRead: (offset, bytes, out) => {
        out.data(bytes, file, offset, 0)
        return undefined
      },
      resolveWrite: (offset, bytes, _flags, plan) => {
        plan.inPlace(bytes, file, offset)
        return undefined
      },
    }
    node.map = map
    expect(node.write(0, 512, new Uint8Array(512).fill(9), 0, 0)).toBeUndefined()
    const buffer = new Uint8Array(512)
    expect(node.read(0, 512, buffer, 0, 0)).toBeUndefined()
    expect(buffer[17]).toBe(9)
  })
})

test('reads past the end give zeroes, writes past the end grow the node', async () => {
  const device = new Device(1, 1024)
  device.bytes.fill(7)
  const buffer = new Uint8Array(1024).fill(1)
  await device.read(512, 1024, buffer, 0, 0)
  expect([buffer[0], buffer[511], buffer[512], buffer[1023]]).toEqual([7, 7, 0, 0])
  await device.read(4096, 512, buffer, 0, 0)
  expect(buffer[0]).toBe(0)
  let grown = 0
  device.onGrow = () => grown++
  device.written(1024, 700)
  expect([device.length, grown]).toEqual([2048, 1])
})

test('write-zeroes without fallback is refused where only data could do it', async () => {
  const device = new Device(512)
  device.canZero = false
  await expect(device.writeZeroes(0, 512, ReqFlags.noFallback)).rejects.toMatchObject({ code: 'ENOTSUP' })
  await device.writeZeroes(0, 700, 0)
  expect(device.calls).toContain('write')
})

test('read-only nodes refuse every change', async () => {
  const device = new Device(512)
  device.readOnly = true
  await expect(device.write(0, 512, new Uint8Array(512), 0, 0)).rejects.toMatchObject({ code: 'EPERM' })
  expect(() => device.writeZeroes(0, 512, 0)).toThrow('Operation not permitted')
  expect(() => device.discard(0, 512)).toThrow('Operation not permitted')
})

test('detect-zeroes turns zero data into zero requests', async () => {
  const device = new Device(512)
  device.detectZeroes = 'on'
  await device.write(0, 1024, new Uint8Array(1024), 0, 0)
  await device.write(0, 1024, new Uint8Array(1024).fill(1), 0, 0)
  expect(device.calls).toEqual(['zero', 'write'])
})

test('flushes run once per write generation, and fua flushes after the write', async () => {
  const device = new Device(512)
  await device.flush()
  await device.write(0, 512, new Uint8Array(512).fill(1), 0, 0)
  await device.flush()
  await device.flush()
  expect(device.calls).toEqual(['write', 'flush'])
  await device.write(0, 512, new Uint8Array(512).fill(1), 0, ReqFlags.fua)
  expect(device.calls).toEqual(['write', 'flush', 'write', 'flush'])
})

test('discard leaves unaligned edges alone and does nothing unless allowed', async () => {
  const device = new Device(512)
  device.limits.discardAlignment = 4096
  await device.discard(100, 9000)
  expect(device.calls.filter((call) => call === 'discard').length).toBeGreaterThan(0)
  device.calls.length = 0
  device.unmapAllowed = false
  await device.discard(0, 8192)
  expect(device.calls).toEqual([])
})

test('a failing device leaves nothing in flight', async () => {
  const device = new Device(4096)
  device.fail = true
  await expect(device.write(10, 10, new Uint8Array(10), 0, 0)).rejects.toThrow('broken device')
  await expect(device.read(10, 10, new Uint8Array(10), 0, 0)).rejects.toThrow('broken device')
  expect(device.requests.size).toBe(0)
})

test('status merges equal neighbours and goes down the chain with its depth', async () => {
  const below = new Device(1)
  below.bytes.fill(1, 1024, 2048)
  class Overlay extends TestNode {}
  const top = new Overlay(size * 2)
  top.supportsBacking = true
  top.backingNode = below
  top.map = {
    resolveRead: (_offset, bytes, out) => {
      out.unallocated(bytes)
      return undefined
    },
  }
  const one = new BlockStatus()
  await below.status(0, size, 'zero', one)
  expect([one.bytes, one.zero, one.data, one.allocated]).toEqual([1024, true, false, true])
  await below.status(1024, size, 'zero', one)
  expect([one.bytes, one.data, one.node, one.offset]).toEqual([1024, true, below, 1024])
  const chain = new ChainStatus()
  await chainStatus(top, undefined, 1024, size, 'zero', chain)
  expect([chain.bytes, chain.depth, chain.data, chain.allocated]).toEqual([1024, 1, true, true])
  await chainStatus(top, undefined, size, size, 'zero', chain)
  expect([chain.bytes, chain.depth, chain.zero, chain.allocated, chain.eof]).toEqual([
    size,
    1,
    true,
    true,
    true,
  ])
})

test('copy-on-read copies what is not allocated here, once', async () => {
  const below = new Device(1)
  below.bytes.fill(5, 0, 4096)
  const file = new Device(1)
  class Overlay extends TestNode {}
  const top = new Overlay(size)
  const allocated = new Set<number>()
  top.supportsBacking = true
  top.backingNode = below
  top.clusterSize = 1024
  top.copyOnRead = 1
  top.map = {
    resolveRead: (offset, bytes, out) => {
      for (let at = offset; at < offset + bytes; ) {
        const chunk = Math.min(1024 - (at % 1024), offset + bytes - at)
        const more = allocated.has(Math.floor(at / 1024))
          ? out.data(chunk, file, at, 0)
          : out.unallocated(chunk)
        at += chunk
        if (!more) {
          break
        }
      }
      return undefined
    },
    resolveWrite: (offset, _bytes, _flags, plan) => {
      allocated.add(Math.floor(offset / 1024))
      plan.inPlace(1024, file, offset)
      return undefined
    },
  }
  const buffer = new Uint8Array(100)
  await top.read(1500, 100, buffer, 0, 0)
  expect([...new Set(buffer)]).toEqual([5])
  expect([...allocated]).toEqual([1])
  expect(file.bytes.subarray(1024, 2048).every((byte) => byte === 5)).toBe(true)
  below.calls.length = 0
  await top.read(1500, 100, buffer, 0, 0)
  expect(below.calls).toEqual([])
})

describe('a mapped write in many pieces', () => {
  function scattered(length: number): { node: TestNode; file: Device; failAt: (piece: number) => void } {
    class Scattered extends TestNode {}
    const file = new Device(1, length)
    file.turns = () => 1
    const node = new Scattered(length)
    let bad = -1
    node.map = {
      resolveRead: (offset, bytes, out) => {
        out.data(bytes, file, offset, 0)
        return undefined
      },
      resolveWrite: (offset, _bytes, _flags, plan) => {
        if (offset === bad * 512) {
          throw new Error('broken map')
        }
        plan.inPlace(512, file, offset)
        return undefined
      },
    }
    return {
      node,
      file,
      failAt: (piece) => {
        bad = piece
      },
    }
  }

  test('does not pile up calls', async () => {
    const length = 20000 * 512
    const { node, file } = scattered(length)
    await node.write(0, length, new Uint8Array(length).fill(7), 0, 0)
    expect([file.bytes[0], file.bytes[length - 1]]).toEqual([7, 7])
  })

  test('reports a failure only when no piece is in flight any more', async () => {
    const { node, file, failAt } = scattered(4096)
    failAt(1)
    await expect(node.write(0, 4096, new Uint8Array(4096).fill(7), 0, 0)).rejects.toThrow('broken map')
    expect([file.bytes[0], file.requests.size, node.requests.size]).toEqual([7, 0, 0])
  })
})
