import { describe, expect, test } from 'vitest'
import type { ExtentSink, MapPath, WritePlan } from './data-path.js'
import { ExtentFlags } from './flags.js'
import { IoNode } from './node.js'

class TestNode extends IoNode {
  readonly nodeName = 'node'
  readonly backingNode = undefined
  readonly filteredNode = undefined
  readonly flushNodes = []
}

/** A node over bytes in memory; `later` makes its requests wait. */
function storage(bytes: number, later: boolean) {
  const data = new Uint8Array(bytes)
  const node = new TestNode()
  node.length = bytes
  node.readOnly = false
  node.isProtocol = true
  const done = (run: () => void) => (later ? Promise.resolve().then(run) : run())
  const largest = { write: 0 }
  node.direct = {
    read: (offset, length, buffer, at) =>
      done(() => {
        buffer.set(data.subarray(offset, offset + length), at)
      }) as Promise<void> | undefined,
    write: (offset, length, buffer, at) => {
      largest.write = Math.max(largest.write, length)
      return done(() => {
        data.set(buffer.subarray(at, at + length), offset)
      }) as Promise<void> | undefined
    },
  }
  return { data, node, largest }
}

/** Stores every byte XOR its guest offset's sector and the host offset's. */
function masked(below: TestNode): TestNode {
  const node = new TestNode()
  node.length = below.length - 4096
  node.readOnly = false
  node.limits.requestAlignment = 512
  const mask = (offset: number, hostOffset: number, bytes: number, buffer: Uint8Array, at: number): void => {
    expect([offset % 512, bytes % 512, hostOffset - offset]).toEqual([0, 0, 4096])
    for (let i = 0; i < bytes; i++) {
      buffer[at + i] = (buffer[at + i] as number) ^ (((offset + i) >> 9) & 0xff) ^ 0x5a
    }
  }
  const map: MapPath = {
    resolveRead: (offset: number, bytes: number, out: ExtentSink) => {
      out.data(bytes, below, offset + 4096, ExtentFlags.encoded)
      return undefined
    },
    resolveWrite: (offset: number, bytes: number, _flags: number, plan: WritePlan) => {
      plan.inPlace(bytes, below, offset + 4096)
      return undefined
    },
    decode: mask,
    encode: mask,
  }
  node.map = map
  return node
}

describe.each([false, true])('data that is stored encoded, waiting %s', (later) => {
  test('is what was written, and the buffers stay as they were', async () => {
    const { data, node: below, largest } = storage((5 << 20) + 4096, later)
    const node = masked(below)
    // A Node Buffer: its slice() is a view.
    const source = Buffer.alloc(3 << 20, 7)
    await node.write(512, source.length, source, 0, 0)
    expect(source.every((byte) => byte === 7)).toBe(true)
    expect(largest.write).toBeLessThanOrEqual(1 << 20)
    expect(data[4096 + 512]).toBe(7 ^ 1 ^ 0x5a)
    const small = Buffer.from('abcdef')
    await node.write(1000, 6, small, 0, 0)
    expect(small.toString()).toBe('abcdef')
    const back = new Uint8Array(source.length)
    await node.read(512, back.length, back, 0, 0)
    expect(Buffer.from(back.subarray(488, 494)).toString()).toBe('abcdef')
    back.fill(7, 488, 494)
    expect(back.every((byte) => byte === 7)).toBe(true)
    const odd = new Uint8Array(10)
    await node.read(998, 10, odd, 0, 0)
    expect(Buffer.from(odd).toString('latin1')).toBe('\x07\x07abcdef\x07\x07')
  })
})
