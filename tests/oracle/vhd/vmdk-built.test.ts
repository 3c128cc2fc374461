import fs from 'node:fs'
import { deflateSync } from 'node:zlib'
import { afterAll, expect, test } from 'vitest'
import { convertImage, openImage } from '../../../src/image/index.js'
import { Workshop } from '../image/qemu.js'

// VMDKs that QEMU's tools cannot make, built byte by byte, and read by both.

const shop = new Workshop()

afterAll(async () => {
  await shop.clear()
})

const sector = 512
const kib64 = 65536

function noise(bytes: number, seed: number): Buffer {
  let state = seed
  return Buffer.from(
    Uint8Array.from({ length: bytes }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      return state >>> 24
    }),
  )
}

/** QEMU takes an extent behind an empty line for two. */
function descriptor(type: string, extents: string): string {
  return `# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="${type}"\n\n# Extent description\n${extents}\n`
}

async function expectSame(name: string, expected: Buffer): Promise<void> {
  const path = shop.path(name)
  await convertImage(shop.layer, {
    sources: [{ filename: path, format: 'vmdk' }],
    target: shop.path('ours.raw'),
    format: 'raw',
  })
  expect(Buffer.compare(fs.readFileSync(shop.path('ours.raw')), expected)).toBe(0)
  shop.img('convert', '-f', 'vmdk', '-O', 'raw', path, shop.path('theirs.raw'))
  expect(Buffer.compare(fs.readFileSync(shop.path('theirs.raw')), expected)).toBe(0)
  expect(await shop.map(path, 'vmdk')).toEqual(shop.json('map', '-f', 'vmdk', path))
}

test('COWD: grains of a sector found through tables of 4096', async () => {
  const sectors = 9000
  const guest = Buffer.alloc(sectors * sector)
  const file = Buffer.alloc(80 * sector)
  file.write('COWD', 0, 'latin1')
  file.writeUInt32LE(1, 4)
  file.writeUInt32LE(3, 8)
  file.writeUInt32LE(sectors, 12)
  file.writeUInt32LE(1, 16)
  file.writeUInt32LE(4, 20)
  file.writeUInt32LE(3, 24)
  // Directory at sector 4: the first table at 8, the second missing, the third at 40.
  file.writeUInt32LE(8, 4 * sector)
  file.writeUInt32LE(40, 4 * sector + 8)
  const grains: [number, number][] = [
    [0, 72],
    [1, 73],
    [4095, 74],
    [8192, 75],
    [8999, 76],
  ]
  for (const [grain, place] of grains) {
    const data = noise(sector, grain + 1)
    data.copy(guest, grain * sector)
    data.copy(file, place * sector)
    const table = grain < 4096 ? 8 : 40
    file.writeUInt32LE(place, table * sector + (grain % 4096) * 4)
  }
  fs.writeFileSync(shop.path('cowd-delta.vmdk'), file)
  fs.writeFileSync(
    shop.path('cowd.vmdk'),
    descriptor('vmfsSparse', `RW ${sectors} VMFSSPARSE "cowd-delta.vmdk"`),
  )
  await expectSame('cowd.vmdk', guest)
  const image = await openImage(
    shop.layer,
    { filename: shop.path('cowd.vmdk'), format: 'vmdk' },
    { write: true },
  )
  await image.write(0, sector, noise(sector, 77))
  await image.write(2 * sector, sector, noise(sector, 78))
  await image.close()
  noise(sector, 77).copy(guest, 0)
  noise(sector, 78).copy(guest, 2 * sector)
  await expectSame('cowd.vmdk', guest)
})

test('seSparse: grains of 4 KiB, zeroed and unmapped ones', async () => {
  const grains = 5000
  const guest = Buffer.alloc(grains * 4096)
  const at = { volatile: 1, directory: 8, tables: 16, grains: 160 }
  const file = Buffer.alloc((at.grains + 8 * 8) * sector)
  const fields: [number, bigint][] = [
    [0, 0xcafebaben],
    [8, 0x200000001n],
    [16, BigInt(grains * 8)],
    [24, 8n],
    [32, 64n],
    [80, BigInt(at.volatile)],
    [88, 1n],
    [128, BigInt(at.directory)],
    [136, 1n],
    [144, BigInt(at.tables)],
    [152, 128n],
    [192, BigInt(at.grains)],
    [200, 64n],
    [at.volatile * sector, 0xcafecafen],
    // Tables 1 and 0: the second table stands first.
    [at.directory * sector, 0x1000000000000001n],
    [at.directory * sector + 8, 0x1000000000000000n],
  ]
  for (const [offset, value] of fields) {
    file.writeBigUInt64LE(value, offset)
  }
  const entry = (grain: number, value: bigint): void => {
    const table = grain < 4096 ? 1 : 0
    file.writeBigUInt64LE(value, (at.tables + table * 64) * sector + (grain % 4096) * 8)
  }
  for (const [grain, number] of [
    [0, 3],
    [7, 0],
    [4095, 1],
    [4999, 2],
  ] as const) {
    const data = noise(4096, grain + 9)
    data.copy(guest, grain * 4096)
    data.copy(file, at.grains * sector + number * 4096)
    // The number's twelve lower bits stand above the others.
    entry(grain, 0x3000000000000000n | (BigInt(number) << 48n))
  }
  entry(8, 0x1000000000000000n)
  entry(9, 0x2000000000000000n)
  fs.writeFileSync(shop.path('se-sesparse.vmdk'), file)
  fs.writeFileSync(
    shop.path('se.vmdk'),
    descriptor('seSparse', `RW ${grains * 8} SESPARSE "se-sesparse.vmdk"`),
  )
  await expectSame('se.vmdk', guest)
  await expect(
    openImage(shop.layer, { filename: shop.path('se.vmdk'), format: 'vmdk' }, { write: true }),
  ).rejects.toThrow('No write support for seSparse images available')
})

test('a stream whose directory stands at its end', async () => {
  const grains = 20
  const last = 3 * sector
  const length = (grains - 1) * kib64 + last
  const guest = Buffer.alloc(length)
  const header = (directory: bigint): Buffer => {
    const bytes = Buffer.alloc(sector)
    bytes.write('KDMV', 0, 'latin1')
    bytes.writeUInt32LE(3, 4)
    bytes.writeUInt32LE(0x30001, 8)
    bytes.writeBigUInt64LE(BigInt(length / sector), 12)
    bytes.writeBigUInt64LE(128n, 20)
    bytes.writeBigUInt64LE(1n, 28)
    bytes.writeBigUInt64LE(20n, 36)
    bytes.writeUInt32LE(512, 44)
    bytes.writeBigUInt64LE(directory, 56)
    bytes.writeBigUInt64LE(128n, 64)
    bytes.write('\n \r\n', 73, 'latin1')
    bytes.writeUInt16LE(1, 77)
    return bytes
  }
  const marker = (type: number, sectors: number): Buffer => {
    const bytes = Buffer.alloc(sector)
    bytes.writeBigUInt64LE(BigInt(sectors), 0)
    bytes.writeUInt32LE(type, 12)
    return bytes
  }
  const front = Buffer.alloc(128 * sector)
  header(0xffffffffffffffffn).copy(front)
  front.write(descriptor('streamOptimized', `RW ${length / sector} SPARSE "stream.vmdk"`), sector, 'latin1')
  const parts: Buffer[] = [front]
  let next = 128
  const table = Buffer.alloc(4 * sector)
  for (const grain of [0, 3, 4, 19]) {
    const bytes = grain === 19 ? last : kib64
    const data = grain === 3 ? Buffer.alloc(bytes, 'text ') : noise(bytes, grain + 1)
    data.copy(guest, grain * kib64)
    // VMware fills the last grain up.
    const packed = deflateSync(Buffer.concat([data, Buffer.alloc(kib64 - bytes)]))
    const head = Buffer.alloc(12)
    head.writeBigUInt64LE(BigInt((grain * kib64) / sector), 0)
    head.writeUInt32LE(packed.length, 8)
    const whole = Buffer.concat([head, packed])
    const padded = Buffer.concat([whole, Buffer.alloc((sector - (whole.length % sector)) % sector)])
    table.writeUInt32LE(next, grain * 4)
    parts.push(padded)
    next += padded.length / sector
  }
  const directory = Buffer.alloc(sector)
  directory.writeUInt32LE(next + 1, 0)
  parts.push(marker(1, 4), table, marker(2, 1), directory)
  parts.push(marker(3, 1), header(BigInt(next + 6)), marker(0, 0))
  fs.writeFileSync(shop.path('stream.vmdk'), Buffer.concat(parts))
  await expectSame('stream.vmdk', guest)
  const found = shop.json('info', shop.path('stream.vmdk')) as Record<string, unknown>
  expect(found.format).toBe('vmdk')
})
