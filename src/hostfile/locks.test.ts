import { describe, expect, test } from 'vitest'
import { type BlockError, isBlockError } from '../errors/index.js'
import { Perm } from '../graph/index.js'
import type { HostFile } from '../host/index.js'
import { MemoryHost } from '../testing/index.js'
import { PermissionLocks } from './locks.js'

function open(): { host: MemoryHost; next: () => HostFile; held: () => number[] } {
  const host = new MemoryHost()
  const contents = host.put('/img', new Uint8Array(512))
  return {
    host,
    next: () => host.open('/img', { write: true }),
    held: () =>
      contents.locks
        .flatMap((lock) => Array.from({ length: lock.end - lock.start }, (_, i) => lock.start + i))
        .sort((a, b) => a - b),
  }
}

function failure(run: () => void): BlockError {
  try {
    run()
  } catch (error) {
    if (isBlockError(error)) {
      return error
    }
    throw error
  }
  throw new Error('did not fail')
}

describe('PermissionLocks', () => {
  test('one byte for each permission held and each not shared, as qcow2 opened for writing has them', () => {
    const { next, held } = open()
    const locks = new PermissionLocks(next(), 'img')
    const perm = Perm.consistentRead | Perm.write | Perm.resize
    const shared = Perm.consistentRead | Perm.writeUnchanged
    locks.prepare(perm, shared)
    expect(held()).toEqual([100, 101, 103, 201, 203])
    locks.commit(perm, shared)
    expect(held()).toEqual([100, 101, 103, 201, 203])
    locks.commit(Perm.consistentRead, Perm.all)
    expect(held()).toEqual([100])
  })

  test('a permission that another does not share', () => {
    const { next, held } = open()
    const reader = new PermissionLocks(next(), 'img')
    reader.prepare(Perm.consistentRead, Perm.consistentRead | Perm.writeUnchanged)
    reader.commit(Perm.consistentRead, Perm.consistentRead | Perm.writeUnchanged)
    const before = held()
    const writer = new PermissionLocks(next(), 'x.img')
    const error = failure(() => {
      writer.prepare(Perm.write, Perm.all)
    })
    expect(error.message).toBe('Failed to get "write" lock')
    expect(error.hint).toBe('Is another process using the image [x.img]?')
    expect(error.code).toBe('EAGAIN')
    expect(held()).toEqual(before)
  })

  test('a permission that another holds and this one would not share', () => {
    const { next } = open()
    const writer = new PermissionLocks(next(), 'img')
    writer.prepare(Perm.write | Perm.resize, Perm.all)
    writer.commit(Perm.write | Perm.resize, Perm.all)
    const other = new PermissionLocks(next(), 'img')
    expect(
      failure(() => {
        other.prepare(Perm.consistentRead, Perm.consistentRead)
      }).message,
    ).toBe('Failed to get shared "write" lock')
    expect(
      failure(() => {
        other.prepare(Perm.consistentRead, Perm.all & ~Perm.resize)
      }).message,
    ).toBe('Failed to get shared "resize" lock')
  })

  test('a failed or aborted change keeps the locks held before', () => {
    const { next, held } = open()
    const locks = new PermissionLocks(next(), 'img')
    locks.prepare(Perm.consistentRead, Perm.all)
    locks.commit(Perm.consistentRead, Perm.all)
    locks.prepare(Perm.consistentRead | Perm.write, Perm.consistentRead)
    expect(held()).toEqual([100, 101, 201, 202, 203])
    locks.abort()
    expect(held()).toEqual([100])
  })

  test('preparing less than is held changes nothing', () => {
    const { next, held } = open()
    const locks = new PermissionLocks(next(), 'img')
    locks.prepare(Perm.all, Perm.all)
    locks.commit(Perm.all, Perm.all)
    locks.prepare(Perm.consistentRead, Perm.all)
    expect(held()).toEqual([100, 101, 102, 103])
  })

  test("a foreign program's exclusive lock on one of the bytes", () => {
    const { next } = open()
    next().setLock(101, 1, 'exclusive')
    const locks = new PermissionLocks(next(), 'img')
    expect(
      failure(() => {
        locks.prepare(Perm.write, Perm.all)
      }).message,
    ).toBe('Failed to lock byte 101')
  })

  test('locks move to another open of the file', async () => {
    const { next, held } = open()
    const first = next()
    const locks = new PermissionLocks(first, 'img')
    locks.prepare(Perm.write, Perm.all & ~Perm.resize)
    const second = next()
    locks.copyTo(second)
    locks.moveTo(second)
    await first.close()
    expect(held()).toEqual([101, 203])
    locks.commit(0, Perm.all)
    expect(held()).toEqual([])
  })
})
