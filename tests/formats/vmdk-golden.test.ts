import { describe, expect, test } from 'vitest'
import { type BlockNode, checkNode } from '../../src/graph/index.js'
import type { MemoryHost } from '../../src/testing/index.js'
import {
  type BuiltVmdk,
  buildCowd,
  buildFlat,
  buildSeSparse,
  buildSparse,
  buildStreamInFront,
  buildStreamWithFooter,
  buildVmfs,
  noise,
  sparsePlaces,
} from './built/vmdk.js'
import { createImageAt, imagePath, layerOn, memoryHost } from './format-under-test.js'
import { readAll } from './guest.js'

const sector = 512

function hostOf(built: BuiltVmdk): { host: MemoryHost; path: string } {
  const host = memoryHost()
  for (const [name, bytes] of built.files) {
    host.put(`/${name}`, bytes)
  }
  return { host, path: `/${[...built.files.keys()][0]}` }
}

function bytesOf(host: MemoryHost, path: string): Buffer {
  return Buffer.from(host.contents(path)?.bytes() ?? new Uint8Array(0))
}

async function withImage(
  host: MemoryHost,
  path: string,
  write: boolean,
  use: (node: BlockNode) => Promise<void>,
): Promise<void> {
  const layer = layerOn(host)
  const node = await layer.open(path, {}, { write })
  try {
    expect(node.driver?.name).toBe('vmdk')
    await use(node)
  } finally {
    await layer.unref(node)
  }
}

describe('golden: images made byte by byte', () => {
  test.each<[string, BuiltVmdk, string]>([
    ['monolithicSparse', buildSparse(false), 'monolithicSparse'],
    ['monolithicSparse with zeroed grains', buildSparse(true), 'monolithicSparse'],
    ['a descriptor with flat extents', buildFlat(), 'twoGbMaxExtentFlat'],
    ['streamOptimized with the directory in front', buildStreamInFront(), 'streamOptimized'],
    ['streamOptimized with a footer', buildStreamWithFooter(), 'streamOptimized'],
    ['vmfs', buildVmfs(), 'vmfs'],
    ['COWD', buildCowd(), 'vmfsSparse'],
    ['seSparse', buildSeSparse(), 'seSparse'],
  ])('%s', async (_, built, createType) => {
    const { host, path } = hostOf(built)
    const before = [...built.files.keys()].map((name) => bytesOf(host, `/${name}`))
    await withImage(host, path, false, async (node) => {
      expect(node.length).toBe(built.disk.length)
      expect(Buffer.compare(await readAll(node), built.disk)).toBe(0)
      expect(await node.state?.specificInfo?.()).toMatchObject({
        type: 'vmdk',
        data: { cid: 0xfffffffe, 'parent-cid': 0xffffffff, 'create-type': createType },
      })
      const check = await checkNode(node, { leaks: false, errors: false })
      expect([check.corruptions, check.checkErrors]).toEqual([0, 0])
    })
    expect([...built.files.keys()].map((name) => bytesOf(host, `/${name}`))).toEqual(before)
  })

  test('a new grain goes behind the last one, into the table and its copy, and the CID changes', async () => {
    const built = buildSparse(false)
    const { host, path } = hostOf(built)
    const old = bytesOf(host, path)
    const data = noise(sector, 99)
    await withImage(host, path, true, async (node) => {
      await node.write(512 * 8 * sector + sector, sector, data, 0, 0)
    })
    const bytes = bytesOf(host, path)
    const place = old.length / sector
    expect(bytes.length).toBe(old.length + 8 * sector)
    expect(bytes.subarray((place + 1) * sector, (place + 2) * sector).equals(data)).toBe(true)
    const changed = Buffer.from(old)
    for (const table of [sparsePlaces.copies[1], sparsePlaces.tables[1]]) {
      changed.writeUInt32LE(place, table * sector)
    }
    const at = old.indexOf('CID=') + 4
    expect(bytes.toString('latin1', at, at + 8)).toMatch(/^[1-9a-f][\da-f]{7}$/)
    expect(bytes.toString('latin1', at, at + 8)).not.toBe('fffffffe')
    bytes.copy(changed, at, at, at + 8)
    expect(bytes.subarray(0, old.length).equals(changed)).toBe(true)
  })

  test('zeroes over whole grains become entries of 1 where the header allows them', async () => {
    const built = buildSparse(true)
    const { host, path } = hostOf(built)
    await withImage(host, path, true, async (node) => {
      await node.writeZeroes(8 * sector, 16 * sector, 4)
    })
    const bytes = bytesOf(host, path)
    for (const table of [sparsePlaces.copies[0], sparsePlaces.tables[0]]) {
      const entries = [0, 1, 2, 3, 4].map((grain) => bytes.readUInt32LE(table * sector + grain * 4))
      expect(entries).toEqual([sparsePlaces.firstGrain + 32, 1, 1, 1, 0])
    }
  })

  test('flat extents are written where they stand', async () => {
    const built = buildFlat()
    const { host, path } = hostOf(built)
    const data = noise(4 * sector, 77)
    await withImage(host, path, true, async (node) => {
      // The end of the first extent and the start of the second.
      await node.write(38 * sector, data.length, data, 0, 0)
    })
    const expected = Buffer.from(built.files.get('parts-f001.vmdk') as Buffer)
    data.copy(expected, 88 * sector, 0, 2 * sector)
    data.copy(expected, 8 * sector, 2 * sector)
    expect(bytesOf(host, '/parts-f001.vmdk').equals(expected)).toBe(true)
    expect(bytesOf(host, '/parts-f002.vmdk').equals(built.files.get('parts-f002.vmdk') as Buffer)).toBe(true)
  })

  test('a write where a COWD extent has no table is refused', async () => {
    const built = buildCowd()
    const { host, path } = hostOf(built)
    await withImage(host, path, true, async (node) => {
      // Its table is missing: COWD tables are made with the image.
      await expect(node.write(5000 * sector, sector, noise(sector, 1), 0, 0)).rejects.toMatchObject({
        code: 'EIO',
      })
    })
  })
})

/** The sector of a hosted sparse extent's header, from its fields as the specification numbers them. */
function headerHex(fields: {
  version: string
  flags: string
  capacity: string
  overhead: string
  directory: string
  compression: string
}): string {
  return [
    '4b444d56',
    fields.version,
    fields.flags,
    fields.capacity,
    // Grains of 128 sectors, the descriptor in sectors 1 to 20, tables of 512 entries.
    '8000000000000000',
    '0100000000000000',
    '1400000000000000',
    '00020000',
    '1500000000000000',
    fields.directory,
    fields.overhead,
    '00',
    '0a200d0a',
    fields.compression,
  ]
    .join('')
    .padEnd(1024, '0')
}

function descriptorOf(bytes: Buffer): string {
  const text = bytes.toString('latin1')
  return (text.includes('\0') ? text.slice(0, text.indexOf('\0')) : text).replace(/CID=[\da-f]{1,8}/, 'CID=X')
}

describe('what create writes, byte for byte', () => {
  test.each([
    ['monolithicSparse', false, '01000000', '03000000', '0000'],
    ['monolithicSparse', true, '02000000', '07000000', '0000'],
    ['streamOptimized', false, '03000000', '03000300', '0100'],
  ])('%s, zeroed grains %s', async (subformat, zeroedGrain, version, flags, compression) => {
    const host = memoryHost()
    // A table is for 32 MiB: 33 of them and half of another.
    const size = (33 << 20) * 32 + (16 << 20)
    await createImageAt(host, imagePath, 'vmdk', { subformat, zeroed_grain: zeroedGrain, size })
    const bytes = bytesOf(host, imagePath)
    const header = headerHex({
      version,
      flags,
      capacity: '0080210000000000',
      // A directory of one sector and 34 tables of four, twice: from 21, from 158.
      directory: '9e00000000000000',
      overhead: '8001000000000000',
      compression,
    })
    expect(bytes.subarray(0, sector).toString('hex')).toBe(header)
    expect(descriptorOf(bytes.subarray(sector, 21 * sector))).toBe(
      '# Disk DescriptorFile\nversion=1\nCID=X\nparentCID=ffffffff\n' +
        `createType="${subformat}"\n\n# Extent description\nRW 2195456 SPARSE "image"\n\n` +
        '# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = "4"\n' +
        'ddb.geometry.cylinders = "2178"\nddb.geometry.heads = "16"\nddb.geometry.sectors = "63"\n' +
        'ddb.adapterType = "ide"\nddb.toolsVersion = "2147483647"\n',
    )
    for (const [at, first] of [
      [21, 22],
      [158, 159],
    ] as const) {
      const directory = Buffer.alloc(sector)
      for (let table = 0; table < 34; table++) {
        directory.writeUInt32LE(first + table * 4, table * 4)
      }
      expect(bytes.subarray(at * sector, (at + 1) * sector).equals(directory)).toBe(true)
      expect(bytes.subarray(first * sector, (first + 136) * sector).every((byte) => byte === 0)).toBe(true)
    }
    expect(bytes.length).toBe(384 * sector)
  })

  test('the descriptor of a flat disk, and its extent', async () => {
    const host = memoryHost()
    await createImageAt(host, '/disk.vmdk', 'vmdk', {
      subformat: 'monolithicFlat',
      adapter_type: 'lsilogic',
      hwversion: '11',
      toolsversion: '8352',
      size: 3 << 20,
    })
    expect(descriptorOf(bytesOf(host, '/disk.vmdk'))).toBe(
      '# Disk DescriptorFile\nversion=1\nCID=X\nparentCID=ffffffff\ncreateType="monolithicFlat"\n\n' +
        '# Extent description\nRW 6144 FLAT "disk-flat.vmdk" 0\n\n# The Disk Data Base\n#DDB\n\n' +
        'ddb.virtualHWVersion = "11"\nddb.geometry.cylinders = "0"\nddb.geometry.heads = "255"\n' +
        'ddb.geometry.sectors = "63"\nddb.adapterType = "lsilogic"\nddb.toolsVersion = "8352"\n',
    )
    expect(bytesOf(host, '/disk-flat.vmdk').equals(Buffer.alloc(3 << 20))).toBe(true)
  })

  test('the descriptor of a disk over another, and of extents of 2 GiB', async () => {
    const host = memoryHost()
    await createImageAt(host, '/base.vmdk', 'vmdk', { size: 1 << 20 })
    const parent = /\nCID=([\da-f]{1,8})\n/.exec(bytesOf(host, '/base.vmdk').toString('latin1'))?.[1]
    await createImageAt(host, '/over.vmdk', 'vmdk', {
      size: 2 ** 31 + (1 << 20),
      subformat: 'twoGbMaxExtentSparse',
      backing_file: 'base.vmdk',
    })
    expect(descriptorOf(bytesOf(host, '/over.vmdk'))).toBe(
      `# Disk DescriptorFile\nversion=1\nCID=X\nparentCID=${parent}\ncreateType="twoGbMaxExtentSparse"\n` +
        'parentFileNameHint="base.vmdk"\n# Extent description\nRW 4194304 SPARSE "over-s001.vmdk"\n' +
        'RW 2048 SPARSE "over-s002.vmdk"\n\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = "4"\n' +
        'ddb.geometry.cylinders = "4163"\nddb.geometry.heads = "16"\nddb.geometry.sectors = "63"\n' +
        'ddb.adapterType = "ide"\nddb.toolsVersion = "2147483647"\n',
    )
  })
})
