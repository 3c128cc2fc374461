import { describe, expect, test } from 'vitest'
import { cacheSizes } from './cache-sizes.js'

const k = 1024
const g = 1024 * 1024 * 1024

describe('defaults', () => {
  test('the L2 cache covers the disk in whole clusters', () => {
    expect(cacheSizes({}, 8 * g, 64 * k)).toEqual({ l2EntryBytes: 65536, l2Entries: 16, refcountEntries: 4 })
  })

  test('beyond 32 MiB it has slices of 4 KiB', () => {
    const sizes = cacheSizes({}, 1024 * g, 64 * k)
    expect(sizes).toEqual({ l2EntryBytes: 4096, l2Entries: 8192, refcountEntries: 4 })
  })

  test('slices are no larger than clusters, and there are at least two', () => {
    expect(cacheSizes({ 'l2-cache-size': 1 }, g, 512)).toMatchObject({ l2EntryBytes: 512, l2Entries: 2 })
    expect(cacheSizes({}, 0, 64 * k)).toMatchObject({ l2Entries: 2 })
  })
})

describe('cache-size', () => {
  test('serves the L2 cache first', () => {
    const sizes = cacheSizes({ 'cache-size': 1024 * k }, g, 64 * k)
    expect(sizes).toMatchObject({ l2EntryBytes: 65536, l2Entries: 2, refcountEntries: 14 })
    expect(cacheSizes({ 'cache-size': 512 * k }, 1024 * g, 64 * k)).toMatchObject({
      l2EntryBytes: 4096,
      l2Entries: 64,
      refcountEntries: 4,
    })
  })

  test('leaves the rest to the other cache', () => {
    const size = 1024 * g
    expect(cacheSizes({ 'cache-size': 1024 * k, 'l2-cache-size': 256 * k }, size, 64 * k)).toMatchObject({
      l2Entries: 64,
      refcountEntries: 12,
    })
    expect(
      cacheSizes({ 'cache-size': 1024 * k, 'refcount-cache-size': 512 * k }, size, 64 * k),
    ).toMatchObject({
      l2Entries: 128,
      refcountEntries: 8,
    })
  })
})

describe('refused', () => {
  const cases: [Parameters<typeof cacheSizes>[0], string][] = [
    [
      { 'cache-size': 1, 'l2-cache-size': 1, 'refcount-cache-size': 1 },
      'cache-size, l2-cache-size and refcount-cache-size may not be set at the same time',
    ],
    [{ 'cache-size': 1, 'l2-cache-size': 2 }, 'l2-cache-size may not exceed cache-size'],
    [{ 'cache-size': 1, 'refcount-cache-size': 2 }, 'refcount-cache-size may not exceed cache-size'],
    [
      { 'l2-cache-entry-size': 1000 },
      'L2 cache entry size must be a power of two between 512 and the cluster size (65536)',
    ],
    [
      { 'l2-cache-entry-size': 131072 },
      'L2 cache entry size must be a power of two between 512 and the cluster size (65536)',
    ],
    [{ 'refcount-cache-size': 2 ** 50 }, 'Refcount cache size too big'],
  ]
  test.each(cases)('%j', (options, message) => {
    expect(() => cacheSizes(options, g, 64 * k)).toThrow(expect.objectContaining({ code: 'EINVAL', message }))
  })
})
