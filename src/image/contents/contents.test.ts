import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { allDrivers } from '../../all-drivers.js'
import { createBlockLayer } from '../../graph/index.js'
import { MemoryHost } from '../../testing/index.js'
import { processContext } from '../../tools/main-process.js'
import { runUmbrella } from '../../tools/umbrella.js'
import { type DiskContents, imageContents } from './index.js'

const MiB = 1 << 20

let folder = ''

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'blockgraph-contents-'))
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

/** A file system made by its own program. */
function made(program: string, args: string[], bytes = 4 * MiB): Buffer {
  const path = join(folder, 'fs')
  rmSync(path, { force: true })
  writeFileSync(path, '')
  truncateSync(path, bytes)
  execFileSync(program, [...args, path], {
    stdio: 'pipe',
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  })
  return readFileSync(path)
}

async function contentsOf(disk: Uint8Array): Promise<DiskContents> {
  const host = new MemoryHost()
  host.put('/disk', disk)
  const layer = createBlockLayer({ host, drivers: allDrivers })
  try {
    return await imageContents(layer, { filename: '/disk', format: 'raw' })
  } finally {
    await layer.closeAll()
  }
}

function mbr(
  disk: Buffer,
  at: number,
  entries: [flag: number, type: number, first: number, count: number][],
): void {
  for (const [i, [flag, type, first, count]] of entries.entries()) {
    const entry = at + 446 + i * 16
    disk[entry] = flag
    disk[entry + 4] = type
    disk.writeUInt32LE(first, entry + 8)
    disk.writeUInt32LE(count, entry + 12)
  }
  disk.writeUInt16LE(0xaa55, at + 510)
}

/** A disk with a GPT of two partitions: FAT and ext4. */
function gptDisk(): Buffer {
  const disk = Buffer.alloc(12 * MiB)
  mbr(disk, 0, [[0, 0xee, 1, disk.length / 512 - 1]])
  disk.write('EFI PART', 512)
  disk.writeBigUInt64LE(2n, 512 + 72)
  disk.writeUInt32LE(128, 512 + 80)
  disk.writeUInt32LE(128, 512 + 84)
  const partitions = [
    ['28732ac11ff8d211ba4b00a0c93ec93b', 2048, 8192, 'EFI', made('mkfs.vfat', ['-F', '12', '-n', 'BOOT'])],
    [
      'af3dc60f838472478e793d69d8477de4',
      10240,
      8192,
      'root',
      made('mke2fs', ['-q', '-t', 'ext4', '-L', 'slash']),
    ],
  ] as const
  for (const [i, [type, first, count, name, contents]] of partitions.entries()) {
    const at = 1024 + i * 128
    disk.write(type, at, 'hex')
    disk.write('11', at + 16, 'hex')
    disk.writeBigUInt64LE(BigInt(first), at + 32)
    disk.writeBigUInt64LE(BigInt(first + count - 1), at + 40)
    disk.write(name, at + 56, 'utf16le')
    contents.copy(disk, first * 512)
  }
  return disk
}

test('file systems without a partition table', async () => {
  expect(await contentsOf(made('mke2fs', ['-q', '-t', 'ext2']))).toEqual({ 'file-system': { type: 'ext2' } })
  expect(await contentsOf(made('mke2fs', ['-q', '-t', 'ext3', '-L', 'old']))).toEqual({
    'file-system': { type: 'ext3', label: 'old' },
  })
  expect(await contentsOf(made('mkfs.vfat', ['-F', '16', '-n', 'DATA'], 16 * MiB))).toEqual({
    'file-system': { type: 'FAT16', label: 'DATA' },
  })
  expect(await contentsOf(made('mkfs.vfat', ['-F', '32'], 40 * MiB))).toEqual({
    'file-system': { type: 'FAT32' },
  })
  expect(await contentsOf(made('mkswap', ['-q', '-L', 'sw']))).toEqual({
    'file-system': { type: 'swap', label: 'sw' },
  })
  expect(await contentsOf(new Uint8Array(MiB))).toEqual({})
  expect(await contentsOf(new Uint8Array(0))).toEqual({})
})

test('a GPT', async () => {
  expect(await contentsOf(gptDisk())).toEqual({
    'partition-table': 'gpt',
    partitions: [
      {
        number: 1,
        start: MiB,
        size: 4 * MiB,
        type: 'EFI system',
        name: 'EFI',
        'file-system': { type: 'FAT12', label: 'BOOT' },
      },
      {
        number: 2,
        start: 5 * MiB,
        size: 4 * MiB,
        type: 'Linux',
        name: 'root',
        'file-system': { type: 'ext4', label: 'slash' },
      },
    ],
  })
})

test('an MBR with logical partitions, and one that links to itself', async () => {
  const disk = Buffer.alloc(8 * MiB)
  mbr(disk, 0, [
    [0x80, 0x83, 2048, 2048],
    [0, 5, 4096, 8192],
  ])
  mbr(disk, 4096 * 512, [
    [0, 0x82, 64, 100],
    [0, 5, 4096, 200],
  ])
  mbr(disk, 8192 * 512, [
    [0, 0x99, 64, 50],
    [0, 5, 4096, 200],
  ])
  expect(await contentsOf(disk)).toEqual({
    'partition-table': 'mbr',
    partitions: [
      { number: 1, start: MiB, size: MiB, type: 'Linux', bootable: true },
      { number: 2, start: 2 * MiB, size: 4 * MiB, type: 'extended' },
      { number: 5, start: 4160 * 512, size: 51200, type: 'Linux swap' },
      { number: 6, start: 8256 * 512, size: 25600, type: '0x99' },
    ],
  })
})

test('blockgraph info --contents, in words and as JSON; the tool that stands in for qemu-img has no such option', async () => {
  const path = join(folder, 'disk.raw')
  writeFileSync(path, gptDisk())
  let stdout = ''
  const context = {
    ...processContext('blockgraph', new AbortController().signal),
    stdout: (text: string) => {
      stdout += text
    },
    stderr: () => undefined,
  }
  expect(await runUmbrella(['info', '--contents', '-f', 'raw', path], context)).toBe(0)
  expect(stdout).toContain(`contents: GPT partition table
    No  Start  Size   Type        File system   Name
    1   1 MiB  4 MiB  EFI system  FAT12 "BOOT"  EFI
    2   5 MiB  4 MiB  Linux       ext4 "slash"  root
`)
  stdout = ''
  expect(await runUmbrella(['info', '--contents', '--output=json', '-f', 'raw', path], context)).toBe(0)
  expect(JSON.parse(stdout)).toMatchObject({ format: 'raw', contents: { 'partition-table': 'gpt' } })
  expect(await runUmbrella(['img', 'info', '--contents', '-f', 'raw', path], context)).toBe(1)
})
