import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isBlockError } from '../../../errors/index.js'
import {
  clearAutoclear,
  headerBytesNeeded,
  parseHeader,
  type Qcow2Header,
  serializeHeader,
} from './header.js'
import { qcow2 } from './index.js'

/** Feature name table as qemu-img 7.2 writes it, as [type, bit, name]. */
const features = [
  [0, 0, 'dirty bit'],
  [0, 1, 'corrupt bit'],
  [0, 2, 'external data file'],
  [0, 3, 'compression type'],
  [0, 4, 'extended L2 entries'],
  [1, 0, 'lazy refcounts'],
  [2, 0, 'bitmaps'],
  [2, 1, 'raw external data'],
] as const

function hexBytes(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text.replaceAll(/\s/g, ''), 'hex'))
}

function cluster(bytes: number, ...parts: (string | Uint8Array)[]): Uint8Array {
  const all = new Uint8Array(bytes)
  let at = 0
  for (const part of parts) {
    const data = typeof part === 'string' ? hexBytes(part) : part
    all.set(data, at)
    at += data.length
  }
  return all
}

function featureTable(): Uint8Array {
  const table = Buffer.alloc(features.length * 48)
  features.forEach(([type, bit, name], i) => {
    table[i * 48] = type
    table[i * 48 + 1] = bit
    table.write(name, i * 48 + 2)
  })
  return table
}

/** First cluster of `qemu-img create -f qcow2 -F qcow2 -b a.qcow2 x 64M`. */
const goldenV3 = cluster(
  65536,
  `514649fb 00000003 0000000000000210 00000007 00000010 0000000004000000 00000000 00000001
   0000000000030000 0000000000010000 00000001 00000000 0000000000000000
   0000000000000000 0000000000000000 0000000000000000 00000004 00000070 0000000000000000
   e2792aca 00000005 71636f7732000000 6803f857 00000180`,
  featureTable(),
  '0000000000000000',
  Buffer.from('a.qcow2'),
)

/** The same with `-o compat=0.10`. */
const goldenV2 = cluster(
  65536,
  `514649fb 00000002 0000000000000060 00000007 00000010 0000000004000000 00000000 00000001
   0000000000030000 0000000000010000 00000001 00000000 0000000000000000
   e2792aca 00000005 71636f7732000000 0000000000000000`,
  Buffer.from('a.qcow2'),
)

/** `qemu-img create -f qcow2 -o cluster_size=512,refcount_bits=64,lazy_refcounts=on,compression_type=zstd x 64k` */
const golden512 = cluster(
  512,
  `514649fb 00000003 0000000000000000 00000000 00000009 0000000000010000 00000000 00000002
   0000000000000600 0000000000000200 00000001 00000000 0000000000000000
   0000000000000008 0000000000000001 0000000000000000 00000006 00000070 0100000000000000`,
)

function patched(base: Uint8Array, at: number, hex: string): Uint8Array {
  const copy = base.slice()
  copy.set(hexBytes(hex), at)
  return copy
}

function failure(bytes: Uint8Array, mode = {}): string {
  try {
    parseHeader(bytes, mode)
  } catch (error) {
    if (isBlockError(error)) {
      return `${error.code} ${error.message}`
    }
    throw error
  }
  return 'accepted'
}

describe('parse and serialise', () => {
  test('version 3 with a backing file, byte for byte', () => {
    const header = parseHeader(goldenV3)
    expect(header).toMatchObject({
      version: 3,
      clusterSize: 65536,
      size: 64 * 1024 * 1024,
      l1Size: 1,
      l1TableOffset: 0x30000,
      refcountTableOffset: 0x10000,
      refcountTableClusters: 1,
      refcountOrder: 4,
      backingFile: 'a.qcow2',
      backingFormat: 'qcow2',
      headerLength: 112,
      warnings: [],
    })
    expect(header.featureNames.map(({ type, bit, name }) => [type, bit, name])).toEqual(features)
    expect(serializeHeader(header)).toEqual(goldenV3)
  })

  test('version 2, byte for byte', () => {
    const header = parseHeader(goldenV2)
    expect(header).toMatchObject({ version: 2, refcountOrder: 4, headerLength: 72, backingFormat: 'qcow2' })
    expect(serializeHeader(header)).toEqual(goldenV2)
  })

  test('small clusters have no feature names', () => {
    const header = parseHeader(golden512)
    expect(header).toMatchObject({ incompatible: 8, compatible: 1, compressionType: 1, refcountOrder: 6 })
    expect(serializeHeader(header)).toEqual(golden512)
  })

  test('what is not understood survives', () => {
    const header = parseHeader(goldenV3)
    header.unknownFields = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8)
    header.unknownExtensions = [
      { magic: 0x12345678, data: Uint8Array.of(9, 8, 7) },
      { magic: 0x9abcdef0, data: new Uint8Array(0) },
    ]
    header.compatibleHigh = 0x80000000
    header.compatible = 0xfffffffe
    header.autoclearHigh = 3
    header.bitmaps = { count: 2, directorySize: 64, directoryOffset: 0x50000 }
    header.autoclear = 1
    const again = parseHeader(serializeHeader(header))
    expect(again).toEqual({
      ...header,
      headerLength: 120,
      backingFileOffset: again.backingFileOffset,
      featureNames: again.featureNames,
    })
    expect(serializeHeader(again)).toEqual(serializeHeader(header))
  })

  test('a backing file name that is not UTF-8 is written back as it was', () => {
    const bytes = patched(goldenV3, 0x210, '612eff636f7732')
    const header = parseHeader(bytes)
    expect(header.backingFile).toBe('a.\ufffdcow2')
    expect(serializeHeader(header)).toEqual(bytes)
    header.backingFile = 'b'
    expect(serializeHeader(header)[0x210]).toBe(0x62)
  })

  test('a name that does not fit its cluster is ENOSPC', () => {
    const header = parseHeader(golden512)
    header.backingFile = 'x'.repeat(400)
    expect(() => serializeHeader(header)).toThrow(expect.objectContaining({ code: 'ENOSPC' }))
  })

  test('a file shorter than its cluster reads as zeroes', () => {
    const short = golden512.slice(0, 112)
    expect(serializeHeader(parseHeader(short))).toEqual(golden512)
    expect(headerBytesNeeded(short)).toBe(512)
    expect(headerBytesNeeded(new Uint8Array(10))).toBe(112)
  })

  test('what is said to be enough of a header is enough, and is no more than what there is', () => {
    const outcome = (bytes: Uint8Array): unknown => {
      try {
        return parseHeader(bytes)
      } catch (error) {
        return String(error)
      }
    }
    const extension = fc.record({
      magic: fc.constantFrom(0xe2792aca, 0x6803f857, 0x44415441, 0x12345678, 0),
      length: fc.oneof(fc.integer({ min: 0, max: 200 }), fc.constantFrom(65000, 65424, 70000, 0xffffffff)),
    })
    fc.assert(
      fc.property(
        fc.constantFrom(goldenV3, goldenV2),
        fc.array(extension, { maxLength: 5 }),
        fc.integer({ min: 112, max: 1000 }),
        fc.constantFrom(0, 0x210, 900, 4000, 65500),
        (golden, extensions, known, name) => {
          const bytes = golden.slice()
          const view = new DataView(bytes.buffer)
          view.setUint32(12, name)
          let at = golden === goldenV3 ? 112 : 72
          for (const { magic, length } of extensions) {
            if (at + 8 > bytes.length) {
              break
            }
            view.setUint32(at, magic)
            view.setUint32(at + 4, length)
            at += 8 + Math.ceil(length / 8) * 8
          }
          const needed = headerBytesNeeded(bytes.subarray(0, known))
          expect([known, bytes.length]).toContain(needed)
          expect(outcome(bytes.subarray(0, needed))).toEqual(outcome(bytes))
        },
      ),
      { numRuns: 500 },
    )
    expect(headerBytesNeeded(goldenV3.subarray(0, 4096))).toBe(4096)
    expect(headerBytesNeeded(goldenV3.subarray(0, 0x214))).toBe(65536)
  })

  test('the guest size is whole sectors', () => {
    expect(parseHeader(patched(goldenV3, 24, '0000000000000401')).size).toBe(1024)
  })
})

describe('refusals in the words of qemu-img', () => {
  test.each([
    [0, '00', 'EINVAL Image is not in qcow2 format'],
    [4, '00000001', 'ENOTSUP Unsupported qcow2 version 1'],
    [4, 'ffffffff', 'ENOTSUP Unsupported qcow2 version 4294967295'],
    [20, '00000008', 'EINVAL Unsupported cluster size: 2^8'],
    [20, '00000016', 'EINVAL Unsupported cluster size: 2^22'],
    [100, '00000067', 'EINVAL qcow2 header too short'],
    [100, '00010001', 'EINVAL qcow2 header exceeds cluster size'],
    [8, '0000000000010001', 'EINVAL Invalid backing file offset'],
    [104, '01', 'EINVAL qcow2: Compression type incompatible feature bit must be set'],
    [104, '02', 'ENOTSUP qcow2: unknown compression type: 2'],
    [79, '08', 'EINVAL qcow2: Compression type incompatible feature bit must not be set'],
    [79, '40', 'ENOTSUP Unsupported qcow2 feature(s): Unknown incompatible feature: 40'],
    [99, '07', 'EINVAL Reference count entry width too large; may not exceed 64 bits'],
    [56, '00000000', 'EINVAL Image does not contain a reference count table'],
    [56, '00000081', 'EFBIG Reference count table too large'],
    [48, '0000000000010001', 'EINVAL Reference count table offset invalid'],
    [48, 'ffffffffffff0000', 'EINVAL Reference count table offset invalid'],
    [48, '7fffffffc0000000', 'EIO Could not initialize refcount handling: Input/output error'],
    [60, '00010001', 'EFBIG Snapshot table too large'],
    [64, '0000000000000008', 'EINVAL Snapshot table offset invalid'],
    [36, '00400001', 'EFBIG Active L1 table too large'],
    [40, '0000000000000001', 'EINVAL Active L1 table offset invalid'],
    [40, '7fffffffffff0000', 'EIO Could not read L1 table: Input/output error'],
    [36, '00000000', 'EINVAL L1 table is too small'],
    [24, '0fffffffffffffff', 'EFBIG Image is too big'],
    [24, 'fffffffffffffffe', 'EFBIG Could not refresh total sector count: File too large'],
    [32, '00000003', 'EINVAL Unsupported encryption method 3'],
    [32, 'ffffffff', 'EINVAL Unsupported encryption method -1'],
    [116, '00000010', 'EINVAL ERROR: ext_backing_format: len=16 too large (>=16)'],
    [116, '00010000', 'EINVAL Header extension too large'],
    [16, '00000400', 'EINVAL Backing file name too long'],
    [112, '0537be77', 'EINVAL CRYPTO header extension only expected with LUKS encryption method'],
    [112, '23852875', 'EINVAL bitmaps_ext: Invalid extension length'],
    [95, '02', 'EINVAL data-file-raw requires a data file'],
  ])('at %i %s: %s', (at, hex, expected) => {
    expect(failure(patched(goldenV3, at, hex))).toBe(expected)
  })

  test('unknown features are named by the image', () => {
    const bytes = patched(patched(goldenV3, 0x89, '46'), 72, '8000000000000040')
    // The first feature name of the table now is for bit 6.
    bytes[0x88 + 1] = 6
    expect(failure(bytes)).toBe(
      'ENOTSUP Unsupported qcow2 feature(s): dirty bit, Unknown incompatible feature: 8000000000000000',
    )
  })

  test('what counts depends on what the image is opened for', () => {
    const corrupt = patched(goldenV3, 79, '02')
    expect(failure(corrupt)).toBe('accepted')
    expect(failure(corrupt, { write: true })).toBe(
      'EACCES qcow2: Image is corrupt; cannot be opened read/write',
    )
    expect(failure(corrupt, { write: true, check: true })).toBe('accepted')
    expect(failure(patched(goldenV3, 56, '00000000'), { check: true })).toBe('accepted')
    expect(failure(patched(goldenV3, 60, 'ffffffff'), { check: true })).toBe('accepted')
    expect(failure(patched(goldenV3, 95, '02'), { noIo: true })).toBe('accepted')
  })
})

test('bitmaps that another program did not keep up are dropped with a warning', () => {
  const header = parseHeader(goldenV3)
  header.bitmaps = { count: 1, directorySize: 32, directoryOffset: 0x50000 }
  const bytes = serializeHeader(header)
  const read = parseHeader(bytes)
  expect(read.bitmaps).toBeUndefined()
  expect(read.warnings).toEqual([
    expect.stringContaining('a program lacking bitmap support modified this file'),
  ])
  const good = parseHeader(patched(bytes, 95, '01'))
  expect(good.bitmaps).toEqual(header.bitmaps)
  // What this driver keeps up to date stays, the rest goes.
  expect(clearAutoclear(good)).toBe(false)
  good.autoclear |= 0x80
  good.autoclearHigh = 1
  expect(clearAutoclear(good)).toBe(true)
  expect([good.autoclear, good.autoclearHigh]).toEqual([1, 0])
})

describe('any bytes at all', () => {
  const accepted = (bytes: Uint8Array): Qcow2Header | undefined => {
    try {
      return parseHeader(bytes)
    } catch (error) {
      expect(isBlockError(error)).toBe(true)
      return undefined
    }
  }

  const mutated = fc
    .tuple(
      fc.constantFrom(goldenV3, goldenV2, golden512),
      fc.array(fc.tuple(fc.nat(560), fc.integer({ min: 0, max: 255 })), { maxLength: 6 }),
      fc.nat(700),
    )
    .map(([base, changes, length]) => {
      const bytes = base.slice(0, Math.max(length, 24))
      for (const [at, value] of changes) {
        if (at < bytes.length) {
          bytes[at] = value
        }
      }
      return bytes
    })

  test('give a header within bounds or a BlockError', () => {
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 600 }), mutated), (bytes) => {
        const header = accepted(bytes)
        if (header === undefined) {
          return
        }
        const kept = header.unknownExtensions.reduce((sum, { data }) => sum + data.length, 0)
        expect(kept + header.unknownFields.length).toBeLessThanOrEqual(header.clusterSize)
        expect(header.l1Size).toBeLessThanOrEqual(0x400000)
        expect(header.refcountTableClusters * header.clusterSize).toBeLessThanOrEqual(0x800000)
        expect(header.snapshotCount).toBeLessThanOrEqual(65536)
        expect(Number.isSafeInteger(header.size)).toBe(true)
      }),
      { numRuns: 3000 },
    )
  })

  test('what was written once reads back the same', () => {
    fc.assert(
      fc.property(mutated, (bytes) => {
        const header = accepted(bytes)
        let written: Uint8Array
        try {
          written = header === undefined ? new Uint8Array(0) : serializeHeader(header)
        } catch (error) {
          // A cluster that was full may not have room for the longer header.
          expect(error).toMatchObject({ code: 'ENOSPC' })
          return
        }
        if (header !== undefined) {
          expect(Buffer.compare(serializeHeader(parseHeader(written)), written)).toBe(0)
        }
      }),
      { numRuns: 1000 },
    )
  })
})

test('probing looks at magic, version and length', () => {
  expect(qcow2.probe?.(goldenV3.subarray(0, 512), undefined)).toBe(100)
  expect(qcow2.probe?.(goldenV2.subarray(0, 512), undefined)).toBe(100)
  expect(qcow2.probe?.(patched(goldenV3, 4, '00000009').subarray(0, 512), undefined)).toBe(100)
  expect(qcow2.probe?.(patched(goldenV3, 4, '00000001').subarray(0, 512), undefined)).toBe(0)
  expect(qcow2.probe?.(goldenV3.subarray(0, 111), undefined)).toBe(0)
  expect(qcow2.probe?.(new Uint8Array(512), undefined)).toBe(0)
})
