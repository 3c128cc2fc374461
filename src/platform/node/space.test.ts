import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { HostFile } from '../../host/index.js'
import { createNodeHost } from './host.js'
import { libc } from './libc.js'

const MiB = 1 << 20
let folder = ''

beforeAll(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'blockgraph-space-'))
})

afterAll(() => {
  fs.rmSync(folder, { recursive: true })
})

let count = 0

async function created(io: 'auto' | 'sync' | 'threads', contents?: Uint8Array): Promise<HostFile> {
  const path = join(folder, `f${count++}`)
  fs.writeFileSync(path, contents ?? '')
  return await createNodeHost({ io }).files.open(path, { write: true })
}

async function contents(file: HostFile, offset: number, bytes: number): Promise<Uint8Array> {
  const buffer = new Uint8Array(bytes).fill(0xee)
  await file.read(offset, bytes, buffer, 0)
  return buffer
}

describe.runIf(libc() !== undefined).each(['auto', 'sync', 'threads'] as const)('policy %s', (io) => {
  test('holes and data are found', async () => {
    const file = await created(io)
    await file.truncate(3 * MiB)
    await file.write(MiB, 65536, new Uint8Array(65536).fill(1), 0)
    expect(file.seekData(0)).toBe(MiB)
    expect(file.seekHole(0)).toBe(0)
    expect(file.seekHole(MiB)).toBe(MiB + 65536)
    expect(file.seekData(MiB + 100)).toBe(MiB + 100)
    expect(file.seekData(2 * MiB)).toBe(-1)
    expect(file.seekHole(3 * MiB)).toBe(-1)
    expect(file.seekData(9 * MiB)).toBe(-1)
    await file.close()
  })

  test('punching a hole gives space back and keeps the size', async () => {
    const file = await created(io, new Uint8Array(MiB).fill(7))
    await file.sync()
    const before = file.stat().allocated
    expect(await file.punchHole(65536, 65536 * 2)).toBe(true)
    expect(file.size()).toBe(MiB)
    expect(file.stat().allocated).toBeLessThan(before)
    const read = await contents(file, 65535, 65536 * 2 + 2)
    expect(read.subarray(1, -1).every((byte) => byte === 0)).toBe(true)
    expect([read[0], read.at(-1)]).toEqual([7, 7])
    expect(await file.punchHole(0, 0)).toBe(true)
    await file.close()
  })

  test('a zeroed range stays allocated and may grow the file', async () => {
    const file = await created(io, new Uint8Array(MiB).fill(7))
    if ((await file.zeroRange(MiB - 65536, 2 * 65536)) === true) {
      expect(file.size()).toBe(MiB + 65536)
      expect(file.stat().allocated).toBeGreaterThanOrEqual(MiB + 65536)
      const read = await contents(file, MiB - 65536, 2 * 65536)
      expect(read.every((byte) => byte === 0)).toBe(true)
    }
    await file.close()
  })

  test('allocating reserves space and grows the file', async () => {
    const file = await created(io, new Uint8Array(100).fill(7))
    expect(await file.allocate(0, MiB)).toBe(true)
    expect(file.size()).toBe(MiB)
    expect(file.stat().allocated).toBeGreaterThanOrEqual(MiB)
    expect((await contents(file, 99, 2)).join()).toBe('7,0')
    // Beyond what is done on this thread.
    expect(await file.allocate(0, 80 * MiB)).toBe(true)
    expect(await file.punchHole(0, 80 * MiB)).toBe(true)
    expect(file.stat().allocated).toBe(0)
    await file.close()
  })

  test('an offset the kernel refuses is an error', async () => {
    const file = await created(io)
    await expect(async () => await file.allocate(-4096, 4096)).rejects.toThrow('Invalid argument')
    await file.close()
  })

  test('the kernel copies between files', async () => {
    const data = Uint8Array.from({ length: 200_000 }, (_, i) => i % 251)
    const from = await created(io, data)
    const to = await created(io, new Uint8Array(10).fill(9))
    expect(await from.copyTo(1000, to, 5, 100_000)).toBe(100_000)
    const read = await contents(to, 0, 100_005)
    expect(Buffer.compare(read.subarray(5), data.subarray(1000, 101_000))).toBe(0)
    expect(read.subarray(0, 5).join()).toBe('9,9,9,9,9')
    // Fewer at the end, nothing past it.
    expect(await from.copyTo(199_000, to, 0, 5000)).toBe(1000)
    expect(await from.copyTo(300_000, to, 0, 5000)).toBe(0)
    // Overlapping ranges of one file are beyond it.
    expect(await from.copyTo(0, from, 10, 1000)).toBeUndefined()
    await from.close()
    await to.close()
  })

  test('one copy call is of limited length', async () => {
    const from = await created(io)
    const to = await created(io)
    await from.truncate(40 * MiB)
    const copied = await from.copyTo(0, to, 0, 40 * MiB)
    expect(copied).toBeGreaterThan(0)
    expect(copied).toBeLessThanOrEqual(16 * MiB)
    await from.close()
    await to.close()
  })
})

test.runIf(libc() !== undefined)('many asynchronous calls at once all finish', async () => {
  const from = await created('auto', new Uint8Array(4096).fill(3))
  const to = await created('auto')
  const copies = Array.from({ length: 600 }, (_, i) => from.copyTo(0, to, i * 4096, 4096))
  expect(new Set(await Promise.all(copies))).toEqual(new Set([4096]))
  expect(to.size()).toBe(600 * 4096)
  expect((await contents(to, 0, 600 * 4096)).every((byte) => byte === 3)).toBe(true)
  await from.close()
  await to.close()
})

test.runIf(libc() !== undefined)('asynchronous calls report their own errno', async () => {
  const { files } = createNodeHost({ io: 'threads' })
  const from = await created('threads', new Uint8Array(100))
  const target = await created('threads')
  const readOnly = await files.open(target.path)
  const results = await Promise.allSettled([
    from.copyTo(0, readOnly, 0, 100),
    target.allocate(-1, 200 * MiB),
    from.copyTo(0, target, 0, 100),
  ])
  expect(
    results.map((result) => (result.status === 'fulfilled' ? result.value : result.reason.code)),
  ).toEqual(['EBADF', 'EINVAL', 100])
  await Promise.all([from.close(), target.close(), readOnly.close()])
})

test('a block device has a size, a block size and can be discarded and zeroed', async ({ skip }) => {
  const backing = join(folder, 'device')
  fs.writeFileSync(backing, new Uint8Array(4 * MiB).fill(5))
  let device = ''
  try {
    device = execFileSync('losetup', ['-f', '--show', backing], { stdio: ['ignore', 'pipe', 'ignore'] })
      .toString()
      .trim()
  } catch {
    skip()
  }
  try {
    for (const io of ['auto', 'sync', 'threads'] as const) {
      const { files } = createNodeHost({ io })
      expect(files.stat(device)).toMatchObject({ kind: 'block', size: 4 * MiB })
      for (const direct of [false, true]) {
        const file = await files.open(device, { write: true, direct })
        expect(file.kind).toBe('block')
        expect(file.size()).toBe(4 * MiB)
        expect(file.stat().size).toBe(4 * MiB)
        expect(file.alignment.request).toBe(direct ? 512 : 1)
        expect(file.seekData(0)).toBeUndefined()
        expect(file.allocate(0, 4096)).toBe(false)
        await file.write(0, MiB, new Uint8Array(MiB).fill(6), 0)
        expect(await file.zeroRange(0, 65536)).toBe(true)
        expect(await file.discardDevice(65536, 65536)).toBe(true)
        const read = await contents(file, 0, 65536 * 2 + 512)
        expect(read.subarray(0, 65536 * 2).every((byte) => byte === 0)).toBe(true)
        expect(read[65536 * 2]).toBe(6)
        const end = await contents(file, 4 * MiB - 512, 1024)
        expect(end[0]).toBe(5)
        expect(end.subarray(512).every((byte) => byte === 0)).toBe(true)
        await file.close()
      }
    }
  } finally {
    execFileSync('losetup', ['-d', device])
  }
})
