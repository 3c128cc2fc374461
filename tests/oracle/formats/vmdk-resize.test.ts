import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { allDrivers } from '../../../src/all-drivers.js'
import { createBlockLayer, truncateNode } from '../../../src/graph/index.js'
import { createNodeHost } from '../../../src/platform/node/index.js'

// qemu-img cannot resize VMDK images itself; it judges what became of them.

const MiB = 2 ** 20
const GiB = 2 ** 30
let folder: string
let path: string

beforeEach(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'blockgraph-vmdk-'))
  path = join(folder, 'disk.vmdk')
})

afterEach(() => {
  fs.rmSync(folder, { recursive: true, force: true })
})

const qemu = (...args: string[]): string => execFileSync('qemu-img', args, { encoding: 'utf8', cwd: folder })

function write(file: string, format: string, offset: number, bytes: number, pattern: number): void {
  execFileSync('qemu-io', ['-f', format, '-c', `write -P ${pattern} ${offset} ${bytes}`, file])
}

async function resize(length: number): Promise<void> {
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  const node = await layer.open(path, { driver: 'vmdk' }, { write: true })
  try {
    await truncateNode(node, length, { exact: false, preallocation: 'off', zero: false })
  } finally {
    await layer.unref(node)
    await layer.closeAll()
  }
}

test.each([
  ['monolithicSparse', false, 100 * MiB + 512, 300 * MiB],
  ['monolithicSparse, a directory that has to move', false, 3 * MiB, 9 * GiB],
  ['monolithicSparse', true, 64 * MiB, 5 * GiB],
  ['monolithicFlat', false, 10 * MiB, 64 * MiB],
  ['twoGbMaxExtentSparse', false, 2 * GiB + 10 * MiB, 3 * GiB],
  ['twoGbMaxExtentFlat', false, 2 * GiB + 10 * MiB, 3 * GiB],
])('%s, zeroed grains %s, %d to %d', async (subformat, zeroed, from, to) => {
  const options = `subformat=${subformat.split(',')[0]}${zeroed ? ',zeroed_grain=on' : ''}`
  qemu('create', '-q', '-f', 'vmdk', '-o', options, path, String(from))
  const model = join(folder, 'model')
  qemu('create', '-q', '-f', 'raw', model, String(to))
  const both = (offset: number, bytes: number, pattern: number): void => {
    write(path, 'vmdk', offset, bytes, pattern)
    write(model, 'raw', offset, bytes, pattern)
  }
  both(MiB, 300_032, 0xa5)
  both(from - 1024, 1024, 0x5a)
  const old = fs.readFileSync(path).subarray(512, 11264).toString('latin1')
  await resize(to)
  expect(JSON.parse(qemu('info', '--output=json', path))).toMatchObject({ 'virtual-size': to })
  expect(qemu('check', path)).toContain('No errors were found')
  expect(qemu('compare', '-f', 'vmdk', '-F', 'raw', path, model)).toBe('Images are identical.\n')
  both(to - 70_144, 70_144, 0x77)
  both(from + 65536, 65536, 0x33)
  expect(qemu('compare', '-f', 'vmdk', '-F', 'raw', path, model)).toBe('Images are identical.\n')
  const text = fs.readFileSync(path).subarray(0, 11264).toString('latin1')
  const last = subformat.startsWith('twoGb') ? to - 2 * GiB : to
  expect(text).toContain(`RW ${last / 512} `)
  expect(text).toContain(`ddb.geometry.cylinders = "${Math.floor(to / (63 * 16 * 512))}"`)
  expect(text).not.toBe(old)
})

test('what cannot grow says so, and stays', async () => {
  const refused = async (length: number, why: string): Promise<void> => {
    const before = fs.readFileSync(path)
    await expect(resize(length)).rejects.toThrow(why)
    expect(fs.readFileSync(path).equals(before)).toBe(true)
  }
  qemu('create', '-q', '-f', 'vmdk', path, '10M')
  await refused(5 * MiB, 'Shrinking of VMDK images is not supported')
  qemu('create', '-q', '-f', 'vmdk', '-o', 'subformat=streamOptimized', path, '10M')
  await refused(20 * MiB, "Resizing 'streamOptimized' images is not supported")
  qemu('create', '-q', '-f', 'vmdk', '-o', 'subformat=twoGbMaxExtentSparse', path, '10M')
  // Two extents in one file: growing the last would write over the first.
  const shared = join(folder, 'shared.vmdk')
  qemu('create', '-q', '-f', 'vmdk', '-o', 'subformat=monolithicFlat', shared, '10M')
  const text = fs.readFileSync(shared, 'latin1')
  const line = /^RW.*$/m.exec(text)?.[0] ?? ''
  const halves = [line.replace('20480', '10240').replace(/ 0$/, ' 10240'), line.replace('20480', '10240')]
  const twoGb = path
  path = shared
  fs.writeFileSync(shared, text.replace(line, halves.join('\n')), 'latin1')
  await refused(20 * MiB, 'the last one cannot grow')
  path = twoGb
  await refused(3 * GiB, 'The last extent can grow to 2 GiB only, the disk to 2147483648 bytes')
})
