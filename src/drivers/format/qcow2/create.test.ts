import { describe, expect, test } from 'vitest'
import { isBlockError, strerror } from '../../../errors/index.js'
import { createBlockLayer, createFile } from '../../../graph/index.js'
import { MemoryHost, type MemoryHostOptions, type MemoryOperation } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { create } from './create.js'
import { parseHeader } from './header.js'

type Values = Record<string, string | number | boolean>

/** Creates `/img` in memory and returns its bytes. */
async function created(options: Values, hostOptions: MemoryHostOptions = {}): Promise<Uint8Array> {
  const host = new MemoryHost(hostOptions)
  const layer = createBlockLayer({ host, drivers: [file] })
  const nodes = []
  try {
    await create({
      layer,
      host,
      filename: '/img',
      options,
      createFurtherFile: () => Promise.reject(new Error('one file is enough here')),
      createFile: async (size) => {
        await createFile(layer, '/img', { size })
        const node = await layer.open('/img', {}, { write: true, protocol: true })
        nodes.push(node)
        return node
      },
    })
  } finally {
    await layer.closeAll()
  }
  return host.contents('/img')?.bytes() ?? new Uint8Array(0)
}

async function refusal(options: Values): Promise<string> {
  try {
    await created({ size: 1 << 20, ...options })
    return 'created'
  } catch (error) {
    if (isBlockError(error)) {
      return `${error.code} ${error.message}`
    }
    throw error
  }
}

function u64(bytes: Uint8Array, at: number): bigint {
  return new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(at)
}

describe('layout', () => {
  test('header, refcount table, refcount block, L1 table', async () => {
    const image = await created({ size: 64 << 20 })
    expect(image.length).toBe(3 * 65536 + 8)
    expect(parseHeader(image.subarray(0, 65536))).toMatchObject({
      version: 3,
      size: 64 << 20,
      l1Size: 1,
      l1TableOffset: 3 * 65536,
      refcountTableOffset: 65536,
      refcountTableClusters: 1,
      refcountOrder: 4,
    })
    expect(u64(image, 65536)).toBe(0x20000n)
    expect(u64(image, 2 * 65536)).toBe(0x0001000100010001n)
    expect(u64(image, 2 * 65536 + 8)).toBe(0n)
  })

  test('an image of size 0 has no L1 table', async () => {
    const image = await created({ size: 0 })
    expect(image.length).toBe(3 * 65536)
    expect(parseHeader(image.subarray(0, 65536))).toMatchObject({ size: 0, l1Size: 0, l1TableOffset: 0 })
  })

  test.each([
    [1, '0f'],
    [2, '55'],
    [4, '1111'],
    [8, '01010101'],
    [16, '0001000100010001'],
    [32, '00000001000000010000000100000001'],
    [64, '0000000000000001'.repeat(4)],
  ])('refcounts of %i bits', async (bits, expected) => {
    const image = await created({ size: 64 << 20, refcount_bits: bits })
    const refcounts = Buffer.from(image.subarray(2 * 65536, 2 * 65536 + 40)).toString('hex')
    expect(refcounts).toBe(expected.padEnd(80, '0'))
  })

  test('options reach the header', async () => {
    const image = await created({
      size: 1000,
      compat: 'v3',
      cluster_size: 4096,
      lazy_refcounts: true,
      compression_type: 'zstd',
      backing_file: 'base.img',
      backing_fmt: 'raw',
    })
    expect(parseHeader(image.subarray(0, 4096))).toMatchObject({
      size: 1024,
      clusterSize: 4096,
      compatible: 1,
      incompatible: 8,
      compressionType: 1,
      backingFile: 'base.img',
      backingFormat: 'raw',
    })
    const old = await created({ size: 1 << 20, compat: '0.10' })
    expect(parseHeader(old.subarray(0, 65536))).toMatchObject({ version: 2, headerLength: 72 })
  })
})

describe('order and failure', () => {
  test('the header is written last, after a flush, and flushed itself', async () => {
    const log: MemoryOperation[] = []
    await created({ size: 1 << 30 }, { log: (operation) => log.push(operation) })
    const writes = log.filter((o) => o.kind === 'write' || o.kind === 'flush')
    const header = writes.findIndex((o) => o.kind === 'write' && o.offset === 0)
    expect(writes.slice(header - 1).map((o) => o.kind)).toEqual(['flush', 'write', 'flush'])
    expect(writes.slice(0, header).some((o) => o.kind === 'write')).toBe(true)
  })

  test('a write that fails says what was being written', async () => {
    const failing = (offset: number) =>
      created(
        { size: 1 << 20 },
        { fault: (o) => (o.kind === 'write' && o.offset === offset ? 'ENOSPC' : undefined) },
      )
    await expect(failing(0)).rejects.toThrow(`Could not write qcow2 header: ${strerror('ENOSPC')}`)
    await expect(failing(65536)).rejects.toThrow(`Could not write refcount table: ${strerror('ENOSPC')}`)
  })
})

describe('refusals in the words of qemu-img', () => {
  const v3 = '(use version=v3 or greater)'
  test.each<[Values, string]>([
    [{ cluster_size: 1000 }, 'EINVAL Cluster size must be a power of two between 512 and 2048k'],
    [{ cluster_size: 0 }, 'EINVAL Cluster size must be a power of two between 512 and 2048k'],
    [{ cluster_size: 2 ** 54 }, 'EINVAL Cluster size must be a power of two between 512 and 2048k'],
    [{ refcount_bits: 3 }, 'EINVAL Refcount width must be a power of two and may not exceed 64 bits'],
    [{ refcount_bits: 128 }, 'EINVAL Refcount width must be a power of two and may not exceed 64 bits'],
    [
      { refcount_bits: 8, compat: 'v2' },
      `EINVAL Different refcount widths than 16 bits require compatibility level 1.1 or above ${v3}`,
    ],
    [
      { lazy_refcounts: true, compat: '0.10' },
      `EINVAL Lazy refcounts only supported with compatibility level 1.1 and above ${v3}`,
    ],
    [
      { compression_type: 'zstd', compat: 'v2' },
      `EINVAL Non-zlib compression type is only supported with compatibility level 1.1 and above ${v3}`,
    ],
    [{ compression_type: 'lz4' }, "EINVAL Parameter 'compression-type' does not accept value 'lz4'"],
    [{ preallocation: 'bogus' }, "EINVAL Parameter 'preallocation' does not accept value 'bogus'"],
    [{ compat: '1.2' }, "EINVAL Parameter 'version' does not accept value '1.2'"],
    [{ backing_fmt: 'raw' }, 'EINVAL Backing format cannot be used without backing file'],
    [
      { backing_file: 'x', backing_fmt: 'bogus' },
      "EINVAL Parameter 'backing-fmt' does not accept value 'bogus'",
    ],
    [
      { backing_file: 'x', preallocation: 'metadata' },
      'EINVAL Backing file and preallocation can only be used at the same time if extended_l2 is on',
    ],
    [{ backing_file: 'x', backing_fmt: 'raw', cluster_size: 512, size: 1 << 20 }, 'created'],
    [
      { backing_file: 'y'.repeat(500), backing_fmt: 'raw', cluster_size: 512 },
      `ENOSPC Could not assign backing file '${'y'.repeat(500)}' with format 'raw': ${strerror('ENOSPC')}`,
    ],
    [
      { backing_file: 'y'.repeat(1024), backing_fmt: 'raw' },
      `EINVAL Could not assign backing file '${'y'.repeat(1024)}' with format 'raw': ${strerror('EINVAL')}`,
    ],
    [{ data_file_raw: true }, 'EINVAL data-file-raw requires data-file'],
    [
      { data_file: 'd', compat: '0.10' },
      'EINVAL External data files are only supported with compatibility level 1.1 and above ' +
        '(use version=v3 or greater)',
    ],
    [
      { data_file: 'd', data_file_raw: true, backing_file: 'b' },
      'EINVAL Backing file and data-file-raw cannot be used at the same time',
    ],
    [
      { extended_l2: true, cluster_size: 4096 },
      'EINVAL Extended L2 entries are only supported with cluster sizes of at least 16384 bytes',
    ],
    [{ encryption: true }, "EINVAL Parameter 'encrypt.key-secret' is required for cipher"],
    [{ 'encrypt.format': 'luks' }, "EINVAL Parameter 'encrypt.key-secret' is required for cipher"],
  ])('%o', async (options, expected) => {
    expect(await refusal(options)).toBe(expected)
  })

  test('a disk too large for its L1 table is EFBIG, and no file is made', async () => {
    expect(await refusal({ size: 2 ** 52 })).toMatch(/^EFBIG /)
    expect(await refusal({ size: 2 ** 41, cluster_size: 512 })).toMatch(/^EFBIG /)
  })
})
