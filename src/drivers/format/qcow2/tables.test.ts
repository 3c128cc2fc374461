import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isBlockError } from '../../../errors/index.js'
import { createBlockLayer } from '../../../graph/index.js'
import { MemoryHost } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { parseBitmapDirectory, serializeBitmapDirectory } from './bitmap-directory.js'
import { BitmapLoader } from './bitmap-load.js'
import { readBitmapClusters } from './bitmap-table.js'
import type { Qcow2Header } from './header.js'
import { parseSnapshotEntry, readSnapshotTable, snapshotEntryBytes } from './snapshot-table.js'
import { specificInfo } from './specific-info.js'

async function fileWith(bytes: Uint8Array) {
  const host = new MemoryHost()
  host.put('/img', bytes)
  return await createBlockLayer({ host, drivers: [file] }).open('/img', {}, { protocol: true })
}

/** The header fields that tables depend on. */
function header(fields: Partial<Qcow2Header>): Qcow2Header {
  return {
    version: 3,
    clusterBits: 9,
    clusterSize: 512,
    size: 1 << 20,
    snapshotCount: 0,
    snapshotsOffset: 0,
    incompatible: 0,
    compatible: 0,
    autoclear: 0,
    refcountOrder: 4,
    compressionType: 0,
    dataFile: undefined,
    bitmaps: undefined,
    ...fields,
  } as Qcow2Header
}

function snapshotEntry(id: string, name: string, extra: Uint8Array): Uint8Array {
  const bytes = Buffer.alloc(40 + extra.length + id.length + name.length)
  bytes.writeBigUInt64BE(0x30000n, 0)
  bytes.writeUInt32BE(7, 8)
  bytes.writeUInt16BE(id.length, 12)
  bytes.writeUInt16BE(name.length, 14)
  bytes.writeUInt32BE(1_700_000_000, 16)
  bytes.writeUInt32BE(123_000_000, 20)
  bytes.writeBigUInt64BE(5_000_000_001n, 24)
  bytes.writeUInt32BE(99, 32)
  bytes.writeUInt32BE(extra.length, 36)
  bytes.set(extra, 40)
  bytes.write(id + name, 40 + extra.length)
  return bytes
}

function words(...values: bigint[]): Uint8Array {
  const bytes = Buffer.alloc(values.length * 8)
  values.forEach((value, i) => {
    bytes.writeBigUInt64BE(value, i * 8)
  })
  return bytes
}

describe('snapshot table', () => {
  test('an entry without extra data takes sizes from elsewhere', () => {
    expect(parseSnapshotEntry(snapshotEntry('1', 'first', new Uint8Array(0)), 4096)).toMatchObject({
      id: '1',
      name: 'first',
      l1TableOffset: 0x30000n,
      l1Size: 7,
      extraDataBytes: 0,
      vmStateSize: 99,
      dateSeconds: 1_700_000_000,
      dateNanoseconds: 123_000_000,
      vmClockNanoseconds: 5_000_000_001n,
      diskSize: 4096,
    })
  })

  test('extra data: VM state size, disk size, instruction count', () => {
    const extra = words(1n << 33n, 8192n, 42n)
    const read = (bytes: Uint8Array) => parseSnapshotEntry(snapshotEntry('2', '', bytes), 4096)
    expect(read(extra)).toMatchObject({ vmStateSize: 2 ** 33, diskSize: 8192, icount: 42n })
    expect(read(extra.subarray(0, 16))).not.toHaveProperty('icount')
    expect(read(words(0n, 8192n, (1n << 64n) - 1n))).not.toHaveProperty('icount')
  })

  test('entries are aligned to 8 bytes', async () => {
    const first = snapshotEntry('1', 'a', words(0n, 1n))
    const second = snapshotEntry('22', 'bcd', words(0n, 2n))
    const at = Math.ceil(first.length / 8) * 8
    const bytes = new Uint8Array(2048)
    bytes.set(first, 512)
    bytes.set(second, 512 + at)
    const node = await fileWith(bytes)
    const table = await readSnapshotTable(node, header({ snapshotCount: 2, snapshotsOffset: 512 }))
    expect(table.bytes).toBe(at + second.length)
    expect(table.snapshots.map(({ id, name, diskSize }) => [id, name, diskSize])).toEqual([
      ['1', 'a', 1],
      ['22', 'bcd', 2],
    ])
  })

  test('too much extra data is refused before it is read', async () => {
    const entry = snapshotEntry('1', 'a', new Uint8Array(0))
    Buffer.from(entry.buffer, entry.byteOffset).writeUInt32BE(0xffffffff, 36)
    const node = await fileWith(entry)
    await expect(readSnapshotTable(node, header({ snapshotCount: 1 }))).rejects.toMatchObject({
      code: 'EFBIG',
      message: 'Too much extra metadata in snapshot table entry 0',
      hint: 'You can force-remove this extra metadata with qemu-img check -r all',
    })
  })

  test('a table past the end of the file is all zeroes; far beyond it cannot be read', async () => {
    const node = await fileWith(new Uint8Array(512))
    const table = await readSnapshotTable(node, header({ snapshotCount: 3, snapshotsOffset: 2 ** 56 }))
    expect(table.snapshots.map(({ id, diskSize }) => [id, diskSize])).toEqual(Array(3).fill(['', 1 << 20]))
    await expect(
      readSnapshotTable(node, header({ snapshotCount: 1, snapshotsOffset: 2 ** 63 - 512 })),
    ).rejects.toThrow('Failed to read snapshot table: Input/output error')
  })

  test('any entry parses within its length', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 40, maxLength: 200 }), (bytes) => {
        const snapshot = parseSnapshotEntry(bytes, 0)
        expect(snapshot.id.length + snapshot.name.length).toBeLessThanOrEqual(bytes.length)
        expect(snapshotEntryBytes(bytes)).toBeGreaterThanOrEqual(40)
      }),
    )
  })
})

function bitmapEntry(
  name: string,
  change: { flags?: number; bits?: number; table?: number; size?: number } = {},
) {
  const bytes = Buffer.alloc(Math.ceil((24 + name.length) / 8) * 8)
  bytes.writeBigUInt64BE(BigInt(change.table ?? 1024), 0)
  bytes.writeUInt32BE(change.size ?? 1, 8)
  bytes.writeUInt32BE(change.flags ?? 2, 12)
  bytes[16] = 1
  bytes[17] = change.bits ?? 16
  bytes.writeUInt16BE(name.length, 18)
  bytes.write(name, 24)
  return bytes
}

function directory(bytes: Uint8Array, count: number): ReturnType<typeof parseBitmapDirectory> {
  return parseBitmapDirectory(bytes, { count, directorySize: bytes.length, directoryOffset: 512 }, header({}))
}

describe('bitmap directory', () => {
  test('names, granularity and flags', () => {
    const bytes = Uint8Array.from([...bitmapEntry('b0'), ...bitmapEntry('long-name', { flags: 1, bits: 9 })])
    expect(directory(bytes, 2)).toEqual([
      {
        name: 'b0',
        nameBytes: Uint8Array.from(Buffer.from('b0')),
        granularity: 65536,
        tableOffset: 1024,
        tableSize: 1,
        inUse: false,
        auto: true,
      },
      {
        name: 'long-name',
        nameBytes: Uint8Array.from(Buffer.from('long-name')),
        granularity: 512,
        tableOffset: 1024,
        tableSize: 1,
        inUse: true,
        auto: false,
      },
    ])
    expect(serializeBitmapDirectory(directory(bytes, 2), header({}))).toEqual(bytes)
  })

  test.each([
    ['more', () => directory(Buffer.concat([bitmapEntry('a'), bitmapEntry('b')]), 1), 'More bitmaps found'],
    ['less', () => directory(bitmapEntry('a'), 2), 'Less bitmaps found'],
    ['cut', () => directory(bitmapEntry('abcdefghi').subarray(0, 32), 1), 'Broken bitmap directory'],
    [
      'flags',
      () => directory(bitmapEntry('a', { flags: 4 }), 1),
      "Bitmap 'a' doesn't satisfy the constraints",
    ],
    ['bits', () => directory(bitmapEntry('a', { bits: 8 }), 1), "doesn't satisfy"],
    ['place', () => directory(bitmapEntry('a', { table: 1000 }), 1), "doesn't satisfy"],
    ['size', () => directory(bitmapEntry('a', { size: 0 }), 1), "doesn't satisfy"],
    ['huge', () => directory(bitmapEntry('a', { size: 0x7ffffff }), 1), "doesn't satisfy"],
    ['empty', () => directory(new Uint8Array(0), 1), 'Requested bitmap directory size is zero'],
  ])('%s', (_, parse, message) => {
    expect(parse).toThrow(message)
  })

  test('a bitmap whose table does not fit the disk cannot be loaded', async () => {
    const image = new Uint8Array(4096)
    const entry = bitmapEntry('b0')
    image.set(entry, 512)
    const bitmaps = { count: 1, directorySize: entry.length, directoryOffset: 512 }
    const node = await fileWith(image)
    const loaded = await new BitmapLoader(node, header({ bitmaps })).load(node, true)
    expect([...loaded.values()].map((bitmap) => bitmap?.info())).toEqual([
      { name: 'b0', recording: true, persistent: true, busy: false, count: 0, granularity: 65536 },
    ])
    node.dirtyBitmaps.releaseNamed()
    await expect(new BitmapLoader(node, header({ bitmaps, size: 0 })).load(node, true)).rejects.toThrow(
      "Could not read bitmap 'b0' from image: Invalid argument",
    )
    expect((await specificInfo(header({ bitmaps }), node)).data).toEqual({
      compat: '1.1',
      'compression-type': 'zlib',
      'lazy-refcounts': false,
      bitmaps: [{ flags: ['auto'], name: 'b0', granularity: 65536 }],
      'refcount-bits': 16,
      corrupt: false,
      'extended-l2': false,
    })
  })

  test('table entries: clusters, runs of ones and bad ones', async () => {
    const image = new Uint8Array(4096)
    image.set(words(0x600n, 1n, 0n, 0x800n), 1024)
    const node = await fileWith(image)
    const read = async (tableSize: number) =>
      await readBitmapClusters(node, header({}), {
        name: 'b',
        nameBytes: Uint8Array.of(98),
        granularity: 65536,
        tableOffset: 1024,
        tableSize,
        inUse: false,
        auto: true,
      })
    expect(await read(4)).toEqual([0x600, 0x800])
    // Most of this table lies past the end of the file and counts as zeroes.
    expect(await read(1 << 20)).toEqual([0x600, 0x800])
    for (const bad of [0x601n, 0x610n, 1n << 60n]) {
      const other = image.slice()
      other.set(words(bad), 1024)
      const broken = await fileWith(other)
      await expect(
        readBitmapClusters(broken, header({}), {
          name: 'b',
          nameBytes: Uint8Array.of(98),
          granularity: 65536,
          tableOffset: 1024,
          tableSize: 1,
          inUse: false,
          auto: true,
        }),
      ).rejects.toMatchObject({ code: 'EINVAL' })
    }
  })

  test('any directory gives bounded entries or a BlockError', () => {
    const entry = fc
      .tuple(fc.uint8Array({ minLength: 0, maxLength: 8 }), fc.nat(40), fc.nat(255))
      .map(([name, at, value]) => {
        const bytes = bitmapEntry(Buffer.from(name).toString('latin1'))
        bytes[at % bytes.length] = value
        return bytes
      })
    fc.assert(
      fc.property(fc.array(entry, { maxLength: 4 }), fc.nat(4), (entries, count) => {
        try {
          for (const bitmap of directory(Buffer.concat(entries), count)) {
            expect(bitmap.tableSize * 512).toBeLessThanOrEqual(0x20000000)
          }
        } catch (error) {
          expect(isBlockError(error)).toBe(true)
        }
      }),
      { numRuns: 2000 },
    )
  })
})

describe('specific info', () => {
  test('version 2 has little to say', async () => {
    const node = await fileWith(new Uint8Array(0))
    const info = await specificInfo(header({ version: 2 }), node)
    expect(Object.entries(info.data)).toEqual([
      ['compat', '0.10'],
      ['compression-type', 'zlib'],
      ['refcount-bits', 16],
    ])
  })

  test('keys in the order of qemu-img', async () => {
    const node = await fileWith(new Uint8Array(0))
    const info = await specificInfo(
      header({ incompatible: 2 | 4 | 8, compatible: 1, autoclear: 2, compressionType: 1, dataFile: 'd.raw' }),
      node,
    )
    expect(info).toEqual({ type: 'qcow2', data: expect.anything() })
    expect(Object.entries(info.data).filter(([, value]) => value !== undefined)).toEqual([
      ['compat', '1.1'],
      ['compression-type', 'zstd'],
      ['lazy-refcounts', true],
      ['refcount-bits', 16],
      ['data-file', 'd.raw'],
      ['data-file-raw', true],
      ['corrupt', true],
      ['extended-l2', false],
    ])
  })
})
