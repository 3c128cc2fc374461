import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isBlockError } from '../../../errors/index.js'
import {
  BlockChild,
  type CheckFailure,
  type CheckResult,
  createBlockLayer,
  createFile,
  Role,
} from '../../../graph/index.js'
import { MemoryHost } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { checkImage } from './check.js'
import { ReferenceCounts, refcountAt } from './check-counts.js'
import { create } from './create.js'
import { parseHeader } from './header.js'

const clusterSize = 512
const noFix = { leaks: false, errors: false }

/** Bytes of an image in memory, with access to 64-bit words. */
class Image {
  bytes: Buffer

  constructor(bytes: Uint8Array) {
    this.bytes = Buffer.from(bytes)
  }

  /** Makes the image `clusters` clusters long. */
  extend(clusters: number): this {
    const longer = Buffer.alloc(clusters * clusterSize)
    this.bytes.copy(longer)
    this.bytes = longer
    return this
  }

  word(at: number): bigint {
    return this.bytes.readBigUInt64BE(at)
  }

  setWord(at: number, value: bigint): this {
    this.bytes.writeBigUInt64BE(value, at)
    return this
  }

  refcount(cluster: number, value: number): this {
    this.bytes.writeUInt16BE(value, 2 * clusterSize + cluster * 2)
    return this
  }
}

const copied = 1n << 63n
const l1At = 3 * clusterSize
const l2At = 4 * clusterSize

/** 64 KiB disk with 512-byte clusters: L1 in cluster 3, its first L2 table in 4, data in 5 and 6. */
async function sample(options: Record<string, string | number | boolean> = {}): Promise<Image> {
  const host = new MemoryHost()
  const layer = createBlockLayer({ host, drivers: [file] })
  await create({
    layer,
    host,
    filename: '/img',
    options: { size: 65536, cluster_size: clusterSize, ...options },
    createFurtherFile: () => Promise.reject(new Error('one file is enough here')),
    createFile: async (size) => {
      await createFile(layer, '/img', { size })
      return await layer.open('/img', {}, { write: true, protocol: true })
    },
  })
  await layer.closeAll()
  const image = new Image(host.contents('/img')?.bytes() ?? new Uint8Array(0)).extend(7)
  image.setWord(l1At, copied | BigInt(l2At))
  image.setWord(l2At, copied | BigInt(5 * clusterSize))
  image.setWord(l2At + 8, copied | BigInt(6 * clusterSize))
  return image.refcount(4, 1).refcount(5, 1).refcount(6, 1)
}

async function check(image: Image, signal?: AbortSignal): Promise<CheckResult> {
  const host = new MemoryHost()
  host.put('/img', image.bytes)
  const layer = createBlockLayer({ host, drivers: [file] })
  const node = await layer.open('/img', {}, { protocol: true })
  const parent = { description: 'test' }
  const child = new BlockChild('file', Role.image, parent, node)
  const header = parseHeader(image.bytes.subarray(0, clusterSize), { check: true })
  return await checkImage({ header, file: child }, noFix, signal)
}

test('a sound image', async () => {
  expect(await check(await sample())).toEqual({
    corruptions: 0,
    leaks: 0,
    corruptionsFixed: 0,
    leaksFixed: 0,
    checkErrors: 0,
    imageEndOffset: 7 * clusterSize,
    totalClusters: 128,
    allocatedClusters: 2,
    fragmentedClusters: 0,
    compressedClusters: 0,
    messages: [],
  })
})

describe('messages of qemu-img', () => {
  const found = async (change: (image: Image) => void, options = {}) => {
    const image = await sample(options)
    change(image)
    const { messages, corruptions, leaks, checkErrors } = await check(image)
    return { messages, corruptions, leaks, checkErrors }
  }

  test('leak', async () => {
    expect(await found((image) => image.extend(9).refcount(7, 3))).toEqual({
      messages: ['Leaked cluster 7 refcount=3 reference=0'],
      corruptions: 0,
      leaks: 1,
      checkErrors: 0,
    })
  })

  test('missing refcount, and the COPIED flag that no longer fits', async () => {
    expect(await found((image) => image.refcount(5, 0))).toEqual({
      messages: [
        'ERROR cluster 5 refcount=0 reference=1',
        'ERROR OFLAG_COPIED data cluster: l2_entry=8000000000000a00 refcount=0',
      ],
      corruptions: 2,
      leaks: 0,
      checkErrors: 0,
    })
    expect((await found((image) => image.refcount(4, 2))).messages).toEqual([
      'Leaked cluster 4 refcount=2 reference=1',
      'ERROR OFLAG_COPIED L2 cluster: l1_index=0 l1_entry=8000000000000800 refcount=2',
    ])
  })

  test('COPIED flag missing', async () => {
    expect((await found((image) => image.setWord(l2At, 0xa00n))).messages).toEqual([
      'ERROR OFLAG_COPIED data cluster: l2_entry=a00 refcount=1',
    ])
  })

  test('one cluster used twice', async () => {
    expect((await found((image) => image.setWord(l2At + 8, copied | 0xa00n))).messages).toEqual([
      'ERROR cluster 5 refcount=1 reference=2',
      'Leaked cluster 6 refcount=1 reference=0',
    ])
  })

  test('reserved bits', async () => {
    const result = await found((image) => {
      image.setWord(l1At, copied | (1n << 60n) | BigInt(l2At))
      image.setWord(l2At, copied | (1n << 59n) | 0xa00n)
      image.setWord(l2At + 16, 0x2n)
    })
    expect(result.messages).toEqual([
      'ERROR found L1 entry with reserved bits set: 9000000000000800',
      'ERROR found l2 entry with reserved bits set: 8800000000000a00',
      'ERROR found l2 entry with reserved bits set: 2',
    ])
  })

  test('far past the end of the file', async () => {
    const far = copied | (0xffn << 48n)
    expect((await found((image) => image.setWord(l2At + 8, far))).messages).toEqual([
      'ERROR: counting reference for region exceeding the end of the file by one cluster or more: ' +
        'offset 0xff000000000000 size 0x200',
      'Leaked cluster 6 refcount=1 reference=0',
      'ERROR OFLAG_COPIED data cluster: l2_entry=80ff000000000000 refcount=0',
    ])
  })

  test('compressed clusters', async () => {
    // Offset 0xc80, one further sector: the bytes up to 0xe00 and those of the sector after it.
    const descriptor = (1n << 62n) | (1n << 61n) | 0xc80n
    const image = await sample()
    image
      .setWord(l2At + 8, descriptor)
      .extend(8)
      .refcount(7, 1)
    expect(await check(image)).toMatchObject({
      allocatedClusters: 2,
      compressedClusters: 1,
      fragmentedClusters: 1,
      messages: [],
    })
    image.setWord(l2At + 8, copied | descriptor)
    expect((await check(image)).messages).toEqual([
      'ERROR: coffset=0xc80: copied flag must never be set for compressed clusters',
    ])
  })

  test('narrow refcounts overflow', async () => {
    const result = await found((image) => image.setWord(l2At + 8, copied | 0xa00n), { refcount_bits: 1 })
    expect(result.messages[0]).toBe('ERROR: overflow cluster offset=0xa00')
    expect(result.messages[1]).toContain('Use qemu-img amend to increase the refcount entry width')
  })

  test('refcount blocks', async () => {
    const reftable = clusterSize
    expect((await found((image) => image.setWord(reftable, 0x401n))).messages[0]).toBe(
      'ERROR refcount table entry 0 has reserved bits set',
    )
    expect((await found((image) => image.setWord(reftable + 8, 0x100000n))).messages).toEqual([
      'ERROR refcount block 1 is outside image',
    ])
    expect((await found((image) => image.setWord(reftable + 8, 0x400n))).messages).toEqual([
      'ERROR refcount block 1 refcount=2',
      'ERROR cluster 2 refcount=1 reference=2',
    ])
  })

  test('snapshots count what they refer to', async () => {
    const withSnapshot =
      (l1Offset: bigint, l1Size: number, extra = 16) =>
      (image: Image) => {
        // The snapshot table is cluster 7, the snapshot's L1 table cluster 8.
        image.extend(9).refcount(7, 1).refcount(8, 1)
        image.setWord(8 * clusterSize, BigInt(l2At))
        image
          .setWord(l1At, BigInt(l2At))
          .setWord(l2At, 0xa00n)
          .setWord(l2At + 8, 0xc00n)
        image.refcount(4, 2).refcount(5, 2).refcount(6, 2)
        image.bytes.writeUInt32BE(1, 60)
        image.setWord(64, BigInt(7 * clusterSize))
        const at = 7 * clusterSize
        image.setWord(at, l1Offset)
        image.bytes.writeUInt32BE(l1Size, at + 8)
        image.bytes.writeUInt16BE(1, at + 12)
        image.bytes.writeUInt16BE(2, at + 14)
        image.bytes.writeUInt32BE(extra, at + 36)
        image.bytes.write('7s1', at + 40 + extra)
      }
    expect((await found(withSnapshot(4096n, 1))).messages).toEqual([])
    expect((await found(withSnapshot(4096n, 1, 8))).messages).toEqual([
      'ERROR snapshot table entry 0 is incomplete',
    ])
    expect((await found(withSnapshot(4097n, 1))).messages[0]).toBe(
      'ERROR snapshot 7 (s1) l1_offset=0x1001: L1 table is not cluster aligned; snapshot table entry corrupted',
    )
    expect((await found(withSnapshot(4096n, 0x400001))).messages[0]).toBe(
      'ERROR snapshot 7 (s1) l1_size=0x400001: L1 table is too large; snapshot table entry corrupted',
    )
  })

  test('a snapshot table that cannot be read ends the check', async () => {
    const image = await sample()
    image.bytes.writeUInt32BE(65537, 60)
    const failure = await check(image).catch((error: unknown) => error)
    expect(failure).toMatchObject({ code: 'EFBIG' })
    expect((failure as Error).cause as CheckFailure).toMatchObject({
      partial: {
        checkErrors: 1,
        reports: [0],
        messages: [
          'ERROR snapshot table too large',
          'You can force-remove all 1 overhanging snapshots with qemu-img check -r all',
        ],
      },
    })
  })
})

test('an aborted check is ECANCELED', async () => {
  const image = await sample()
  await expect(check(image, AbortSignal.abort())).rejects.toMatchObject({ code: 'ECANCELED' })
})

describe('counting', () => {
  test.each([
    [0, 1],
    [2, 15],
    [4, 65535],
  ])('stops at the largest refcount of order %i', (order, max) => {
    const counts = new ReferenceCounts(order, 10)
    for (let i = 0; i < max; i++) {
      expect(counts.add(3)).toBe(true)
    }
    expect(counts.add(3)).toBe(false)
    expect(counts.get(3)).toBe(max)
    expect(counts.get(4)).toBe(0)
  })

  test.each([3, 4, 6])('a count beyond a byte leaves its neighbours alone, order %i', (order) => {
    const counts = new ReferenceCounts(order, 10)
    for (let i = 0; i < 300; i++) {
      counts.add(2)
      counts.add(5000)
      counts.add(7)
    }
    counts.add(1)
    const most = order === 3 ? 255 : 300
    expect([1, 2, 3, 7, 5000].map((cluster) => counts.get(cluster))).toEqual([1, most, 0, most, most])
  })

  test('grows with references past the end', () => {
    const counts = new ReferenceCounts(4, 10)
    counts.add(10)
    expect(counts.clusters).toBe(11)
  })

  test('reads refcounts of every width', () => {
    const block = Uint8Array.from({ length: 64 }, (_, i) => (i * 73 + 41) & 255)
    let bits = 0n
    for (const byte of block) {
      bits = (bits << 8n) | BigInt(byte)
    }
    for (let order = 3; order <= 6; order++) {
      const width = 2 ** order
      for (let i = 0; i < 512 / width; i++) {
        const expected = (bits >> BigInt(512 - width * (i + 1))) & ((1n << BigInt(width)) - 1n)
        expect(BigInt(refcountAt(block, i, order))).toBe(expected)
      }
    }
    // Below a byte, entries start at the least significant bit.
    expect([0, 1, 2, 3].map((i) => refcountAt(Uint8Array.of(0b11100100), i, 1))).toEqual([0, 1, 2, 3])
    expect([0, 1].map((i) => refcountAt(Uint8Array.of(0xa5), i, 2))).toEqual([5, 10])
    expect([0, 1, 2].map((i) => refcountAt(Uint8Array.of(0b101), i, 0))).toEqual([1, 0, 1])
  })
})

test('any damage gives a result or a BlockError', async () => {
  const base = await sample()
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.tuple(fc.integer({ min: 3, max: 440 }), fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), fc.nat(3)),
        { minLength: 1, maxLength: 5 },
      ),
      async (changes) => {
        const image = new Image(base.bytes)
        for (const [word, value, kind] of changes) {
          const at = Math.min(word * 8, image.bytes.length - 8)
          const old = image.word(at)
          image.setWord(
            at,
            [value, old ^ (1n << (value % 64n)), value % 5000n, (value % 16n) << 9n][kind] ?? 0n,
          )
        }
        try {
          const result = await check(image)
          const reported = result.corruptions + result.leaks + result.checkErrors
          expect(reported).toBeLessThanOrEqual(result.messages.length)
        } catch (error) {
          expect(isBlockError(error)).toBe(true)
        }
      },
    ),
    { numRuns: 500 },
  )
})
