import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { afterAll, expect, test } from 'vitest'
import { commitImage, convertImage, createImage } from '../../../src/image/index.js'
import { openImage } from '../../../src/library/index.js'
import { Workshop } from '../image/qemu.js'

const shop = new Workshop()
afterAll(() => shop.clear())

const MiB = 1 << 20

/** A parent made by QEMU and a differencing disk above it. libvhdi 2021 takes sectors in groups of eight. */
async function makeChain(format: string): Promise<{ base: string; top: string }> {
  const base = shop.path(`base.${format}`)
  const top = shop.path(`top.${format}`)
  shop.img('create', '-q', '-f', format, base, '20M')
  shop.io(base, format, ['write -P 1 0 4M', 'write -P 8 13M 1M'])
  // An absolute path: libvhdi looks at no other one of a VHDX.
  await createImage(shop.layer, { filename: top, format, backing: { file: base, format } })
  const image = await openImage(shop.layer, top, { readOnly: false, format })
  for (const [at, bytes, value] of [
    [MiB, 4096, 2],
    [6 * MiB, 100 << 10, 3],
    [3 * MiB, 3 * MiB, 4],
    [1056 << 10, 32 << 10, 9],
    [12 * MiB, 4 * MiB, 0],
  ] as const) {
    await image.write(at, new Uint8Array(bytes).fill(value))
  }
  await image.close()
  return { base, top }
}

test.each(['vpc', 'vhdx'])('libvhdi tells who the parent of a %s disk is', async (format) => {
  const { base, top } = await makeChain(format)
  const info = (name: string) => execFileSync('vhdiinfo', [name], { encoding: 'utf8' })
  const identifier = /\tIdentifier\s*: (\S+)/.exec(info(base))?.[1]
  expect(identifier).toMatch(/^[\da-f-]{36}$/)
  expect(info(top)).toMatch(/Disk type\s*: Differential/)
  expect(/Parent identifier\s*: (\S+)/.exec(info(top))?.[1]).toBe(identifier)
  expect(/Parent filename\s*: (.*)/.exec(info(top))?.[1]).toContain(`base.${format}`)
})

test('QEMU, which ignores parent and bitmaps, finds what we wrote', async () => {
  const { top } = await makeChain('vpc')
  expect(shop.json('info', top)).toMatchObject({ format: 'vpc', 'virtual-size': 20994048 })
  shop.io(top, 'vpc', ['read -P 2 1M 4k', 'read -P 3 6M 100k', 'read -P 4 3M 3M', 'read -P 9 1056k 32k'])
})

const mounts = process.getuid?.() === 0 && fs.existsSync('/dev/fuse')

test.runIf(mounts).each(['vpc', 'vhdx'])('libvhdi reads a chain of %s disks as we do', async (format) => {
  const { top } = await makeChain(format)
  const raw = shop.path(`${format}.raw`)
  await convertImage(shop.layer, { sources: [{ filename: top, format }], target: raw, format: 'raw' })
  const folder = shop.path(`mounted-${format}`)
  fs.mkdirSync(folder)
  // It puts the name of the parent behind the folder of the image, whatever it is.
  const how = { cwd: shop.folder, timeout: 20000, stdio: 'ignore' } as const
  execFileSync('vhdimount', [`top.${format}`, folder], how)
  try {
    // The chain from its bottom up.
    expect(fs.readdirSync(folder).sort()).toEqual(['vhdi1', 'vhdi2'])
    execFileSync('cmp', [`${folder}/vhdi2`, raw])
  } finally {
    execFileSync('umount', [folder])
  }
})

test('a parent that we committed to is read by QEMU', async () => {
  const { base, top } = await makeChain('vpc')
  const image = await openImage(shop.layer, top, { readOnly: false, format: 'vpc' })
  const before = await image.read(0, 20 * MiB)
  await image.close()
  await commitImage(shop.layer, { filename: top, format: 'vpc' }, {})
  shop.img('convert', '-O', 'raw', base, 'committed.raw')
  expect(Buffer.compare(fs.readFileSync(shop.path('committed.raw')).subarray(0, 20 * MiB), before)).toBe(0)
})
