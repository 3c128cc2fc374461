import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { convertImage } from '../../../src/index.js'

// Programs of other makers read the disks that we make: libvmdk, libvhdi, libqcow and 7-Zip.

const folder = mkdtempSync(join(tmpdir(), 'judges-'))
const source = join(folder, 'source.raw')
const MiB = 1 << 20
const size = 40 * MiB
let contents: Uint8Array

beforeAll(() => {
  // An MBR with one FAT partition, so that programs that look inside find something.
  const partition = join(folder, 'fat')
  writeFileSync(partition, new Uint8Array(32 * MiB))
  execFileSync('mkfs.vfat', ['-F', '16', partition], { stdio: 'pipe' })
  const file = join(folder, 'random')
  writeFileSync(
    file,
    Uint8Array.from({ length: 3 * MiB + 17 }, (_, i) => (i * 31 + (i >> 11)) & 255),
  )
  execFileSync('mcopy', ['-i', partition, file, '::RANDOM'])
  contents = new Uint8Array(size)
  contents.set(readFileSync(partition), MiB)
  const entry = new DataView(contents.buffer, 446, 16)
  entry.setUint8(4, 6)
  entry.setUint32(8, MiB / 512, true)
  entry.setUint32(12, (32 * MiB) / 512, true)
  contents.set([0x55, 0xaa], 510)
  writeFileSync(source, contents)
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

async function make(name: string, format: string, options: string): Promise<string> {
  const target = join(folder, name)
  const values = options === '' ? {} : Object.fromEntries(options.split(',').map((pair) => pair.split('=')))
  await convertImage({ filename: source, format: 'raw' }, target, { format, options: values })
  return target
}

function output(program: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' })
  expect(status, `${program} ${args.join(' ')}: ${stdout}${stderr}`).toBe(0)
  return stdout
}

describe('libraries of libyal', () => {
  test.each([
    ['vmdk', 'subformat=monolithicSparse', 'vmdkinfo'],
    ['vmdk', 'subformat=monolithicFlat', 'vmdkinfo'],
    ['vmdk', 'subformat=twoGbMaxExtentSparse', 'vmdkinfo'],
    ['vmdk', 'subformat=twoGbMaxExtentFlat', 'vmdkinfo'],
    ['vmdk', 'subformat=streamOptimized', 'vmdkinfo'],
    ['vpc', 'subformat=dynamic,force_size=on', 'vhdiinfo'],
    ['vpc', 'subformat=fixed,force_size=on', 'vhdiinfo'],
    ['vhdx', 'subformat=dynamic', 'vhdiinfo'],
    ['vhdx', 'subformat=fixed', 'vhdiinfo'],
    ['qcow', '', 'qcowinfo'],
    ['qcow2', '', 'qcowinfo'],
    ['qcow2', 'compat=0.10', 'qcowinfo'],
  ])('%s %s by %s', async (format, options, program) => {
    const image = await make(`yal-${format}-${options.replaceAll(/\W/g, '-')}.${format}`, format, options)
    expect(output(program, image)).toMatch(new RegExp(`size:?\\s.*\\b${size}\\b`))
  })
})

describe('7-Zip unpacks the disk', () => {
  test.each([
    ['vmdk', 'subformat=monolithicSparse'],
    // Not stream-optimized ones: it refuses QEMU's too.
    ['vdi', ''],
    ['vdi', 'static=on'],
    ['vpc', 'subformat=dynamic,force_size=on'],
    ['vpc', 'subformat=fixed,force_size=on'],
    ['qcow', ''],
    ['qcow2', ''],
  ])('%s %s', async (format, options) => {
    const image = await make(`zip-${format}-${options.replaceAll(/\W/g, '-')}.${format}`, format, options)
    const type = { vmdk: 'VMDK', vdi: 'VDI', vpc: 'VHD', qcow: 'QCOW', qcow2: 'QCOW' }[format] as string
    expect(output('7z', 'l', `-t${type}`, image)).toContain(String(size))
    const { status, stdout } = spawnSync('7z', ['x', '-so', `-t${type}`, image], { maxBuffer: 2 * size })
    expect(status).toBe(0)
    expect(Buffer.compare(stdout, contents)).toBe(0)
  })
})
