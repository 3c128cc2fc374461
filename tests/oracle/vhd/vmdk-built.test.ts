import fs from 'node:fs'
import { afterAll, expect, test } from 'vitest'
import { collectImageInfo, convertImage, openImage } from '../../../src/image/index.js'
import { run as runImg } from '../../../src/tools/img/run.js'
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
} from '../../formats/built/vmdk.js'
import { Workshop } from '../image/qemu.js'
import { memoryContext } from '../text/fixture.js'

// VMDKs built byte by byte, and read by both; and what both create, compared byte by byte.

const shop = new Workshop()

afterAll(async () => {
  await shop.clear()
})

const sector = 512
const kib64 = 65536

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

/** Puts the files into the workshop; the name of the one to open. */
function put({ files }: BuiltVmdk): string {
  for (const [name, bytes] of files) {
    fs.writeFileSync(shop.path(name), bytes)
  }
  return [...files.keys()][0] ?? ''
}

test.each<[string, BuiltVmdk, Record<string, unknown>]>([
  [
    'monolithicSparse',
    buildSparse(false),
    { extents: [{ 'virtual-size': 2111488, 'cluster-size': 4096, format: '' }] },
  ],
  ['monolithicSparse with zeroed grains', buildSparse(true), { 'create-type': 'monolithicSparse' }],
  [
    'a descriptor with flat extents, two of them in one file',
    buildFlat(),
    {
      'create-type': 'twoGbMaxExtentFlat',
      extents: [20480, 12288, 8192].map((bytes) => ({ 'virtual-size': bytes, format: 'FLAT' })),
    },
  ],
  [
    'streamOptimized, the directory in front',
    buildStreamInFront(),
    { 'create-type': 'streamOptimized', extents: [{ compressed: true, 'cluster-size': kib64 }] },
  ],
  [
    'streamOptimized, the directory at the end',
    buildStreamWithFooter(),
    { 'create-type': 'streamOptimized', extents: [{ compressed: true, 'cluster-size': kib64 }] },
  ],
  ['vmfs', buildVmfs(), { 'create-type': 'vmfs', extents: [{ 'virtual-size': 24576, format: 'VMFS' }] }],
  ['COWD', buildCowd(), { 'create-type': 'vmfsSparse', extents: [{ 'cluster-size': 512 }] }],
  ['seSparse', buildSeSparse(), { 'create-type': 'seSparse', extents: [{ 'cluster-size': 4096 }] }],
])('%s: contents, map and info are the same for both', async (_, built, data) => {
  const name = put(built)
  await expectSame(name, built.disk)
  const theirs = shop.json('info', shop.path(name)) as Record<string, unknown>
  expect(theirs).toMatchObject({
    format: 'vmdk',
    'virtual-size': built.disk.length,
    'format-specific': { type: 'vmdk', data: { cid: 0xfffffffe, ...data } },
  })
  const [ours] = await collectImageInfo(shop.layer, { filename: shop.path(name) })
  expect(ours).toEqual(theirs)
})

test('COWD: written to where there are tables', async () => {
  const built = buildCowd()
  const name = put(built)
  const image = await openImage(shop.layer, { filename: shop.path(name), format: 'vmdk' }, { write: true })
  await image.write(0, sector, noise(sector, 77))
  await image.write(2 * sector, sector, noise(sector, 78))
  await image.close()
  noise(sector, 77).copy(built.disk, 0)
  noise(sector, 78).copy(built.disk, 2 * sector)
  await expectSame(name, built.disk)
})

test('monolithicSparse: what each writes the other reads', async () => {
  const built = buildSparse(true)
  const name = put(built)
  const image = await openImage(shop.layer, { filename: shop.path(name), format: 'vmdk' }, { write: true })
  const data = noise(3 * sector, 79)
  await image.write(511 * 4096 + sector, data.length, data)
  await image.write(513 * 4096 + 7 * sector, data.length, data)
  await image.close()
  shop.run('qemu-io', '-f', 'vmdk', '-c', 'write -P 90 40k 1536', shop.path(name))
  data.copy(built.disk, 511 * 4096 + sector)
  data.copy(built.disk, 513 * 4096 + 7 * sector)
  built.disk.fill(90, 40960, 40960 + 1536)
  await expectSame(name, built.disk)
  expect(shop.img('check', shop.path(name))).toContain('No errors were found')
})

test('seSparse is not written to', async () => {
  const name = put(buildSeSparse())
  await expect(
    openImage(shop.layer, { filename: shop.path(name), format: 'vmdk' }, { write: true }),
  ).rejects.toThrow('No write support for seSparse images available')
})

test.each([
  ['monolithicSparse', '3M', []],
  ['monolithicSparse,zeroed_grain=on,hwversion=9', '100000k', []],
  ['monolithicSparse,compat6=on,toolsversion=77', '40G', []],
  ['monolithicSparse,backing_file=base.vmdk,backing_fmt=vmdk', '5M', []],
  ['monolithicFlat,adapter_type=legacyESX', '5M', ['-flat']],
  ['twoGbMaxExtentSparse,adapter_type=buslogic', '4099M', ['-s001', '-s002', '-s003']],
  ['twoGbMaxExtentFlat,adapter_type=lsilogic', '2049M', ['-f001', '-f002']],
  ['streamOptimized', '3000k', []],
])('create -o subformat=%s of %s: the same bytes as from QEMU', async (options, size, parts) => {
  const names = ['', ...parts].map((part) => shop.path(`same${part}.vmdk`))
  shop.img('create', '-q', '-f', 'vmdk', shop.path('base.vmdk'), '5M')
  const create = ['create', '-q', '-f', 'vmdk', '-o', `subformat=${options}`, shop.path('same.vmdk'), size]
  shop.img(...create)
  const theirs = names.map(startOf)
  for (const name of names) {
    fs.rmSync(name)
  }
  expect(await runImg(create, memoryContext().context)).toBe(0)
  names.forEach((name, i) => {
    const ours = startOf(name)
    expect(ours.size).toBe(theirs[i]?.size)
    expect(Buffer.compare(ours.bytes, theirs[i]?.bytes as Buffer)).toBe(0)
  })
})

/** Length and first 16 MiB of a file, without the identifier of contents, which is random. */
function startOf(name: string): { size: number; bytes: Buffer } {
  const { size } = fs.statSync(name)
  const bytes = Buffer.alloc(Math.min(size, 16 << 20))
  const file = fs.openSync(name, 'r')
  fs.readSync(file, bytes, 0, bytes.length, 0)
  fs.closeSync(file)
  const masked = (text: Buffer): Buffer =>
    Buffer.from(text.toString('latin1').replace(/^CID=[\da-f]{1,8}$/m, 'CID='), 'latin1')
  if (bytes.toString('latin1', 0, 4) === 'KDMV') {
    const text = bytes.subarray(sector, 21 * sector)
    const end = text.indexOf(0)
    const short = masked(text.subarray(0, end < 0 ? text.length : end))
    text.fill(0)
    short.copy(text)
    return { size, bytes }
  }
  if (bytes.toString('latin1', 0, 6) === '# Disk') {
    const short = masked(bytes)
    return { size: short.length, bytes: short }
  }
  return { size, bytes }
}

test('images know their own names, and a conversion that fails leaves none of their files', async () => {
  fs.writeFileSync(shop.path('in.raw'), noise(1 << 20, 5))
  const before = fs.readdirSync(shop.folder).sort()
  const convert = (options: string, signal?: AbortSignal) =>
    convertImage(shop.layer, {
      sources: [{ filename: shop.path('in.raw'), format: 'raw' }],
      target: shop.path('named.vmdk'),
      format: 'vmdk',
      options,
      signal,
    })
  for (const [options, names] of [
    ['subformat=monolithicSparse', ['named.vmdk']],
    ['subformat=monolithicFlat', ['named-flat.vmdk', 'named.vmdk']],
    ['subformat=twoGbMaxExtentSparse', ['named-s001.vmdk', 'named.vmdk']],
  ] as const) {
    await expect(convert(options, AbortSignal.abort())).rejects.toThrow()
    expect(fs.readdirSync(shop.folder).sort()).toEqual(before)
    await convert(options)
    expect(
      fs
        .readdirSync(shop.folder)
        .filter((name) => !before.includes(name))
        .sort(),
    ).toEqual(names)
    expect(fs.readFileSync(shop.path('named.vmdk'), 'latin1')).toContain(`"${names[0]}"`)
    shop.img('compare', '-f', 'vmdk', '-F', 'raw', shop.path('named.vmdk'), shop.path('in.raw'))
    for (const name of names) {
      fs.rmSync(shop.path(name))
    }
  }
})
