import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isBlockError } from '../../../src/errors/index.js'
import { compareImages, createOva, listOva, openImage, verifyOva } from '../../../src/image/index.js'
import { Workshop } from '../image/qemu.js'

const shop = new Workshop()
const MiB = 1 << 20

beforeAll(() => {
  const data = Buffer.alloc(5 * MiB + 512)
  data.fill(7, 100, 3 * MiB)
  data.write('the end', data.length - 10)
  fs.writeFileSync(shop.path('disk.raw'), data)
  shop.img('convert', '-f', 'raw', '-O', 'qcow2', shop.path('disk.raw'), shop.path('disk.qcow2'))
  shop.img(
    'convert',
    '-f',
    'raw',
    '-O',
    'vmdk',
    '-o',
    'subformat=streamOptimized',
    shop.path('disk.raw'),
    shop.path('d.vmdk'),
  )
})

afterAll(async () => {
  await shop.clear()
})

/** The disk of a package through the library is the raw one. */
async function isTheDisk(spec: Parameters<typeof openImage>[1]): Promise<boolean> {
  const first = await openImage(shop.layer, spec)
  const second = await openImage(shop.layer, { filename: shop.path('disk.raw'), format: 'raw' })
  try {
    return (await compareImages(first, second)).identical
  } finally {
    await first.close()
    await second.close()
  }
}

test('a package of two disks: tar, sha256sum, libvmdk and QEMU accept what is in it', async () => {
  const target = shop.path('two disks.ova')
  const progress: number[] = []
  await createOva(shop.layer, {
    target,
    disks: [{ filename: shop.path('disk.raw'), format: 'raw' }, shop.path('disk.qcow2')],
    name: 'a <machine> & more',
    processors: 4,
    memory: 2 * 2 ** 30,
    progress: (done, total) => progress.push(done / total),
  })
  expect(progress.at(-1)).toBe(1)
  const folder = shop.path('unpacked')
  fs.mkdirSync(folder)
  execFileSync('tar', ['xf', target], { cwd: folder })
  const names = execFileSync('tar', ['tf', target], { encoding: 'utf8' }).trim().split('\n')
  expect(names).toEqual(['two-disks.ovf', 'two-disks.mf', 'two-disks-disk1.vmdk', 'two-disks-disk2.vmdk'])
  for (const line of fs.readFileSync(`${folder}/two-disks.mf`, 'utf8').trim().split('\n')) {
    const [, name = '', digest] = /^SHA256\((.*)\)= ([\da-f]{64})$/.exec(line) ?? []
    expect(execFileSync('sha256sum', [name], { cwd: folder, encoding: 'utf8' }).slice(0, 64)).toBe(digest)
  }
  for (const disk of ['two-disks-disk1.vmdk', 'two-disks-disk2.vmdk']) {
    expect(execFileSync('vmdkinfo', [disk], { cwd: folder, encoding: 'utf8' })).toContain('Stream optimized')
    expect(shop.img('compare', `${folder}/${disk}`, shop.path('disk.raw'))).toBe('Images are identical.\n')
  }
  expect(await listOva(shop.layer, target)).toMatchObject({
    descriptor: 'two-disks.ovf',
    hasManifest: true,
    disks: [
      { id: 'disk1', size: 5 * MiB + 512 },
      { id: 'disk2', size: 5 * MiB + 512 },
    ],
  })
  expect((await verifyOva(shop.layer, target)).map(({ result }) => result)).toEqual(['ok', 'ok', 'ok'])
  for (const disk of ['disk2', 'two-disks-disk1.vmdk']) {
    const file = { driver: 'ova', disk, file: { driver: 'file', filename: target } }
    expect(await isTheDisk({ options: { driver: 'vmdk', file } })).toBe(true)
  }
  await expect(openImage(shop.layer, `ova:${target}`)).rejects.toThrow(
    "The package has several disks; name one with 'disk': 'two-disks-disk1.vmdk', 'two-disks-disk2.vmdk'",
  )
})

test('a package that is damaged is told', async () => {
  const target = shop.path('damaged.ova')
  await createOva(shop.layer, { target, disks: [shop.path('disk.qcow2')] })
  const { size } = fs.statSync(target)
  const fd = fs.openSync(target, 'r+')
  fs.writeSync(fd, 'xx', size - 30_000)
  fs.closeSync(fd)
  expect(await verifyOva(shop.layer, target)).toEqual([
    { name: 'damaged.ovf', result: 'ok' },
    { name: 'damaged-disk1.vmdk', result: 'differs' },
  ])
})

test('what fails leaves nothing, and what is there stays', async () => {
  const target = shop.path('failed.ova')
  await expect(createOva(shop.layer, { target, disks: [shop.path('missing')] })).rejects.toThrow(
    'Could not open',
  )
  const abort = AbortSignal.abort()
  await expect(
    createOva(shop.layer, { target, disks: [shop.path('disk.qcow2')], signal: abort }),
  ).rejects.toThrow()
  expect(fs.readdirSync(shop.folder).filter((name) => name.startsWith('failed'))).toEqual([])
  fs.writeFileSync(target, 'mine')
  await expect(createOva(shop.layer, { target, disks: [shop.path('disk.qcow2')] })).rejects.toThrow(
    'File exists',
  )
  expect(fs.readFileSync(target, 'utf8')).toBe('mine')
  await expect(createOva(shop.layer, { target: shop.path('no.ova'), disks: [] })).rejects.toThrow(
    'at least one disk',
  )
})

const envelope = (files: string, disks: string): string =>
  `<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">` +
  `<References>${files}</References><DiskSection><Info/>${disks}</DiskSection></Envelope>`
const file = '<File ovf:id="f" ovf:href="a%20disk.vmdk" ovf:size="1"/>'
const disk =
  '<Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="5" ovf:capacityAllocationUnits="byte * 2^20"/>'

/** An archive made by tar, with the descriptor first. */
function pack(name: string, descriptor: string, format = 'ustar', prefix = ''): string {
  const folder = shop.path(`${name}-files`)
  fs.mkdirSync(`${folder}/${prefix}`, { recursive: true })
  fs.writeFileSync(`${folder}/m.ovf`, descriptor)
  fs.copyFileSync(shop.path('d.vmdk'), `${folder}/${prefix}a disk.vmdk`)
  const target = shop.path(`${name}.ova`)
  execFileSync('tar', [`--format=${format}`, '-cf', target, 'm.ovf', `${prefix}a disk.vmdk`], { cwd: folder })
  return target
}

describe('archives of other programs', () => {
  test.each(['ustar', 'gnu', 'pax', 'oldgnu', 'v7'])('%s', async (format) => {
    const target = pack(format, envelope(file, disk), format)
    expect(await listOva(shop.layer, target)).toEqual({
      descriptor: 'm.ovf',
      hasManifest: false,
      disks: [
        {
          name: 'a disk.vmdk',
          id: 'd',
          size: 5 * MiB,
          fileBytes: fs.statSync(shop.path('d.vmdk')).size,
          format: undefined,
        },
      ],
    })
    expect(await isTheDisk(`ova:${target}`)).toBe(true)
    await expect(verifyOva(shop.layer, target)).rejects.toThrow('has no manifest')
  })

  test.each(['gnu', 'pax'])('long names, %s', async (format) => {
    const prefix = `${'folder-of-many-letters/'.repeat(12)}`
    const descriptor = envelope(`<File ovf:id="f" ovf:href="${prefix}a disk.vmdk"/>`, disk)
    expect(await isTheDisk(`ova:${pack(`long-${format}`, descriptor, format, prefix)}`)).toBe(true)
  })
})

test.each([
  ['no XML', 'hello', /not well formed/],
  ['an open element', '<Envelope><References></Envelope>', /not well formed/],
  ['a document type', `<!DOCTYPE x [<!ENTITY a "b">]>${envelope(file, disk)}`, /document type declaration/],
  ['nested too deep', '<a>'.repeat(200), /nested too deep/],
  ['another root', '<Machine/>', /'Machine', not 'Envelope'/],
  ['no disk', envelope(file, ''), /The package has no disk/],
  ['an unknown file', envelope('', disk), /refers to file 'f', which the descriptor lacks/],
  [
    'a file that is not there',
    envelope('<File ovf:id="f" ovf:href="b"/>', disk),
    /File 'b' of disk 'd' is not in the package/,
  ],
  [
    'chunks',
    envelope('<File ovf:id="f" ovf:href="a disk.vmdk" ovf:chunkSize="7"/>', disk),
    /split into chunks/,
  ],
  [
    'gzip',
    envelope('<File ovf:id="f" ovf:href="a disk.vmdk" ovf:compression="gzip"/>', disk),
    /compressed with gzip/,
  ],
])('a descriptor with %s', async (what, descriptor, message) => {
  await expect(openImage(shop.layer, `ova:${pack(what.replaceAll(' ', '-'), descriptor)}`)).rejects.toThrow(
    message,
  )
})

test('damaged archives are refused or read, and never more than that', async () => {
  const whole = fs.readFileSync(pack('whole', envelope(file, disk)))
  let state = 1
  const random = (below: number): number => {
    state = (state * 1103515245 + 12345) % 2 ** 31
    return Math.floor((state / 2 ** 31) * below)
  }
  let refused = 0
  for (let i = 0; i < 150; i++) {
    const bytes = Buffer.from(whole.subarray(0, i % 5 === 0 ? random(whole.length) : whole.length))
    const headers = [0, 1024]
    for (let k = 0; k < 1 + (i % 3); k++) {
      const at = (headers[random(2)] ?? 0) + random(i % 2 === 0 ? 512 : 1024)
      if (at < bytes.length) {
        bytes[at] = random(256)
      }
    }
    // Half of them with a checksum that is right, so that fields matter.
    if (i % 2 === 0) {
      for (const at of headers) {
        if (at + 512 <= bytes.length) {
          bytes.fill(32, at + 148, at + 156)
          const sum = bytes.subarray(at, at + 512).reduce((total, byte) => total + byte, 0)
          bytes.write(`${sum.toString(8).padStart(6, '0')}\0 `, at + 148)
        }
      }
    }
    const path = shop.path('damaged-archive')
    fs.writeFileSync(path, bytes)
    try {
      const image = await openImage(shop.layer, `ova:${path}`)
      await image.read(0, 512, new Uint8Array(512))
      await image.close()
    } catch (error) {
      expect(isBlockError(error), String(error)).toBe(true)
      refused++
    }
  }
  expect(refused).toBeGreaterThan(50)
})

test('a size beyond the archive, in binary', async () => {
  const bytes = fs.readFileSync(pack('binary', envelope(file, disk)))
  bytes.fill(0xff, 124, 136)
  bytes.fill(32, 148, 156)
  const sum = bytes.subarray(0, 512).reduce((total, byte) => total + byte, 0)
  bytes.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
  fs.writeFileSync(shop.path('binary.ova'), bytes)
  await expect(listOva(shop.layer, shop.path('binary.ova'))).rejects.toThrow('reaches beyond its end')
})
