import { describe, expect, test } from 'vitest'
import { ioError } from '../errors/index.js'
import { IoNode } from '../io/index.js'
import type { Wait } from '../sched/index.js'
import { TableCache } from './table-cache.js'

/** A file in memory that notes what is done to it. */
class File extends IoNode {
  readonly bytes = new Uint8Array(64 * 1024)
  readonly log: string[] = []
  delayed = false
  failWrites = false
  failFlushes = false

  constructor() {
    super()
    this.length = this.bytes.length
    this.readOnly = false
    this.direct = {
      read: (offset, bytes, buffer, at) => {
        this.log.push(`read ${offset}`)
        return this.#finish(() => buffer.set(this.bytes.subarray(offset, offset + bytes), at))
      },
      write: (offset, bytes, buffer, at) => {
        this.log.push(`write ${offset}`)
        if (this.failWrites) {
          throw ioError('ENOSPC')
        }
        return this.#finish(() => this.bytes.set(buffer.subarray(at, at + bytes), offset))
      },
    }
    this.flushPath = {
      flushToOs: () => {
        this.log.push('flush')
        if (this.failFlushes) {
          throw ioError('EIO')
        }
        return undefined
      },
    }
  }

  #finish(effect: () => void): Wait {
    if (!this.delayed) {
      effect()
      return undefined
    }
    return Promise.resolve().then(effect)
  }

  get nodeName(): string {
    return 'file'
  }

  get backingNode(): undefined {
    return undefined
  }

  get filteredNode(): undefined {
    return undefined
  }

  get flushNodes(): readonly IoNode[] {
    return []
  }
}

function change(cache: TableCache, offset: number, value: number): void {
  const table = cache.reach(offset)
  if (table === undefined) {
    throw new Error(`table ${offset} is not at hand`)
  }
  table.view.setUint8(0, value)
  cache.markDirty(table)
}

const size = 512

describe('loading', () => {
  test('is synchronous when the file is, and happens once', () => {
    const file = new File()
    file.bytes[512] = 7
    const cache = new TableCache({ node: file }, size, 4)
    expect(cache.get(512)).toBeUndefined()
    expect(cache.reach(512)?.bytes[0]).toBe(7)
    expect(cache.get(512)?.bytes[0]).toBe(7)
    expect(file.log).toEqual(['read 512'])
  })

  test('joins a read in flight', async () => {
    const file = new File()
    file.delayed = true
    const cache = new TableCache({ node: file }, size, 4)
    expect(cache.reach(512)).toBeUndefined()
    const [a, b] = await Promise.all([cache.load(512), cache.load(512)])
    expect(a).toBe(b)
    expect(a.pins).toBe(2)
    cache.release(a)
    cache.release(b)
    expect(() => cache.release(a)).toThrow('released twice')
    expect(file.log).toEqual(['read 512'])
  })

  test('a table discarded while it is read does not enter the cache', async () => {
    const file = new File()
    file.delayed = true
    const cache = new TableCache({ node: file }, size, 4)
    const loading = cache.load(512)
    cache.discard(512)
    cache.release(await loading)
    expect(cache.get(512)).toBeUndefined()
    const created = await cache.create(512)
    expect(cache.get(512)).toBe(created)
  })
})

describe('eviction', () => {
  test('takes the least recently used table that is neither pinned nor changed', async () => {
    const cache = new TableCache({ node: new File() }, size, 3)
    cache.reach(0)
    cache.reach(512)
    cache.reach(1024)
    cache.get(0)
    cache.reach(1536)
    expect([0, 512, 1024, 1536].map((at) => cache.get(at) !== undefined)).toEqual([true, false, true, true])
    const pinned = await cache.load(0)
    cache.reach(2048)
    cache.reach(2560)
    expect(cache.get(0)).toBe(pinned)
    expect(cache.size).toBe(3)
  })

  test('writes back before it takes a changed table', async () => {
    const file = new File()
    const cache = new TableCache({ node: file }, size, 2)
    change(cache, 0, 1)
    change(cache, 512, 2)
    expect(cache.reach(1024)).toBeUndefined()
    expect(cache.canLoad(1024)).toBe(false)
    cache.release(await cache.load(1024))
    expect([file.bytes[0], file.bytes[512]]).toEqual([1, 2])
    expect(cache.isDirty).toBe(false)
  })

  test('grows while everything is pinned', async () => {
    const cache = new TableCache({ node: new File() }, size, 2)
    const tables = [await cache.load(0), await cache.load(512), await cache.load(1024)]
    expect(cache.size).toBe(3)
    for (const table of tables) {
      cache.release(table)
    }
    cache.reach(1536)
    expect(cache.size).toBe(2)
  })
})

describe('order on disk', () => {
  test('a cache is written after the one it depends on is durable', async () => {
    const file = new File()
    const l2 = new TableCache({ node: file }, size, 4)
    const refcounts = new TableCache({ node: file }, size, 4)
    change(refcounts, 0, 1)
    change(l2, 512, 2)
    expect(l2.orderAfter(refcounts)).toBeUndefined()
    expect(l2.order).toBe(refcounts)
    file.log.length = 0
    await l2.writeBack()
    expect(file.log).toEqual(['write 0', 'flush', 'write 512'])
    expect(l2.order).toBeUndefined()
    await l2.flush()
    expect(file.log.at(-1)).toBe('flush')
  })

  test('the opposite order flushes the first', async () => {
    const file = new File()
    const l2 = new TableCache({ node: file }, size, 4)
    const refcounts = new TableCache({ node: file }, size, 4)
    change(refcounts, 0, 1)
    void l2.orderAfter(refcounts)
    expect(refcounts.canOrderAfter(l2)).toBe(false)
    change(l2, 512, 2)
    file.log.length = 0
    await refcounts.orderAfter(l2)
    // The refcounts that the L2 table waits for are durable; the table itself may follow later.
    expect(file.log).toEqual(['write 0', 'flush'])
    expect([l2.order, refcounts.order]).toEqual([undefined, l2])
    change(refcounts, 0, 3)
    await refcounts.writeBack()
    expect(file.log).toEqual(['write 0', 'flush', 'write 512', 'flush', 'write 0'])
  })

  test('after a flush of everything written so far', async () => {
    const file = new File()
    const cache = new TableCache({ node: file }, size, 4)
    change(cache, 0, 1)
    cache.orderAfterFlush()
    expect(cache.order).toBe('flush')
    file.log.length = 0
    await cache.writeBack()
    expect(file.log).toEqual(['flush', 'write 0'])
  })

  test('nothing changed, nothing written', () => {
    const cache = new TableCache({ node: new File() }, size, 4)
    cache.orderAfterFlush()
    cache.reach(0)
    expect(cache.writeBack()).toBeUndefined()
  })
})

describe('failures', () => {
  test('what could not be written stays dirty, and its order stays', async () => {
    const file = new File()
    const l2 = new TableCache({ node: file }, size, 4)
    const refcounts = new TableCache({ node: file }, size, 4)
    change(refcounts, 0, 1)
    change(l2, 512, 2)
    void l2.orderAfter(refcounts)
    file.failFlushes = true
    await expect(l2.writeBack()).rejects.toMatchObject({ code: 'EIO' })
    expect(file.bytes[512]).toBe(0)
    expect([l2.isDirty, l2.order]).toEqual([true, refcounts])
    file.failFlushes = false
    file.failWrites = true
    await expect(l2.writeBack()).rejects.toMatchObject({ code: 'ENOSPC' })
    expect(l2.isDirty).toBe(true)
    file.failWrites = false
    await l2.writeBack()
    expect(file.bytes[512]).toBe(2)
  })

  test('a discarded table is never written', async () => {
    const file = new File()
    const cache = new TableCache({ node: file }, size, 4)
    change(cache, 0, 1)
    change(cache, 512, 1)
    cache.discardRange(0, 512)
    await cache.flush()
    expect([file.bytes[0], file.bytes[512]]).toEqual([0, 1])
  })
})
