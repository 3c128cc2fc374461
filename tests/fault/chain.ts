import { expect } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { type ErrnoName, isBlockError } from '../../src/errors/index.js'
import {
  type BlockLayer,
  type BlockNode,
  checkNode,
  createBlockLayer,
  createWithDriver,
} from '../../src/graph/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { MemoryHost, type MemoryOperation } from '../../src/testing/index.js'

/** A chain of images whose operations can be made to fail, and what must still be true of it then. */

const codecs = createNodeHost().codecs
export const clusterSize = 1024
export const size = 64 * clusterSize

export function noise(bytes: number, seed: number): Uint8Array {
  let state = seed >>> 0
  return Uint8Array.from({ length: bytes }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state >>> 24
  })
}

export interface Chain {
  readonly host: MemoryHost
  readonly layer: BlockLayer
  readonly guest: Uint8Array
  /** Parts that were written and never flushed with success: they may be lost. */
  readonly unflushed: [start: number, end: number][]
  /** The operation that failed, if one has. */
  readonly failed: { readonly kind: string; readonly path: string } | undefined
  /** From now on the `failAt`th operation fails. Returns what disarms and counts the operations. */
  arm(failAt: number, code: ErrnoName): () => number
}

export async function prepare(options: Record<string, string | number>): Promise<Chain> {
  let armed: { failAt: number; code: ErrnoName; count: number } | undefined
  let broken: MemoryOperation | undefined
  const host = new MemoryHost({
    codecs,
    fault: (operation) => {
      if (armed === undefined || operation.kind === 'read' || armed.count++ !== armed.failAt) {
        return undefined
      }
      broken = operation
      return armed.code
    },
    delay: (operation) => (operation.kind === 'write' && operation.offset % 3 === 0 ? 2 : 0),
  })
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  const guest = new Uint8Array(size)
  const base = noise(size / 2 + 512, 1)
  guest.set(base)
  host.put('/base', base)
  const other = noise(size, 2)
  other.set(base.subarray(0, 20 * clusterSize))
  host.put('/other', other)
  const common = { size, cluster_size: clusterSize, backing_file: '/base', backing_fmt: 'raw' }
  await createWithDriver(layer, driver, '/top', { ...common, ...options })
  const node = await layer.open('/top', { driver: 'qcow2' }, { write: true })
  for (const [offset, bytes, seed] of [
    [500, 3000, 3],
    [30 * 1024, 4096, 4],
    [50_000, 700, 5],
  ] as const) {
    const data = noise(bytes, seed)
    await node.write(offset, bytes, data, 0, 0)
    guest.set(data, offset)
  }
  await node.writeZeroes(10 * clusterSize, 2 * clusterSize, 4)
  guest.fill(0, 10 * clusterSize, 12 * clusterSize)
  await layer.unref(node)
  return {
    host,
    layer,
    guest,
    unflushed: [],
    get failed() {
      return broken
    },
    arm: (failAt, code) => {
      const mine = { failAt, code, count: 0 }
      armed = mine
      return () => {
        armed = undefined
        return mine.count
      }
    },
  }
}

export async function contents(node: BlockNode): Promise<Uint8Array> {
  const buffer = new Uint8Array(size)
  await node.read(0, size, buffer, 0, 0)
  return buffer
}

/** What is wrong with the image as another program finds it. */
export async function inspect({ host, guest, unflushed }: Chain): Promise<string | undefined> {
  const fresh = new MemoryHost({ codecs })
  for (const path of ['/base', '/other', '/top']) {
    fresh.put(path, host.contents(path)?.bytes())
  }
  const layer = createBlockLayer({ host: fresh, drivers: allDrivers })
  const node = await layer.open('/top', { driver: 'qcow2' })
  try {
    const check = await checkNode(node, { leaks: false, errors: false })
    if (check.corruptions !== 0 || check.checkErrors !== 0) {
      return check.messages.join('; ')
    }
    const seen = await contents(node)
    for (const [start, end] of unflushed) {
      seen.set(guest.subarray(start, end), start)
    }
    const at = seen.findIndex((byte, i) => byte !== guest[i])
    return at < 0 ? undefined : `byte ${at} differs`
  } finally {
    await layer.unref(node)
  }
}

/** Writes as the guest does; a write that fails leaves open what is there. */
export async function guestWrites(
  chain: Chain,
  node: BlockNode,
  offset: number,
  data: Uint8Array,
): Promise<void> {
  chain.unflushed.push([offset, offset + data.length])
  try {
    await node.write(offset, data.length, data, 0, 0)
    chain.guest.set(data, offset)
  } catch (error) {
    expect([isBlockError(error), chain.failed?.kind]).toEqual([true, 'flush'])
    await node.read(offset, data.length, chain.guest.subarray(offset, offset + data.length), 0, 0)
  }
}

/** Goes on writing; what cannot be made durable any more is not claimed to be. */
export async function carryOn(chain: Chain, node: BlockNode): Promise<void> {
  const data = noise(2000, 9)
  for (const offset of [7000, 40_000, 60_000]) {
    await guestWrites(chain, node, offset, data)
  }
  try {
    await node.flush()
    chain.unflushed.length = 0
  } catch (error) {
    expect(isBlockError(error)).toBe(true)
  }
}

export async function expectBlockError(run: () => Promise<unknown>, code: ErrnoName): Promise<boolean> {
  try {
    await run()
    return false
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
    expect(error.code).toBe(code)
    return true
  }
}
