import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { createNodeHost } from './host.js'
import type { Libc } from './libc.js'
import { WriteRun } from './write-run.js'

const MiB = 1 << 20
let folder: string
let fd: number
let ext4: boolean

beforeEach(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'blockgraph-run-'))
  fd = fs.openSync(join(folder, 'file'), 'w+')
  ext4 = fs.statfsSync(folder).type === 0xef53
})

afterEach(() => {
  fs.closeSync(fd)
  fs.rmSync(folder, { recursive: true })
})

/** A libc that notes what it is told and answers `result`. */
function recorder(calls: string[], result = 0): () => Libc {
  const note =
    (name: string, first: number) =>
    (...args: number[]): number => {
      calls.push(`${name} ${args.slice(first, first + 2).join('+')}`)
      return result
    }
  const fake: Partial<Libc> = {
    fallocate: note('reserve', 2),
    syncFileRange: note('write back', 1),
    syncFileRangeAsync: (...args) => Promise.resolve(note('write back later', 1)(...args)),
  }
  return () => fake as Libc
}

test('a long run of writes is handed to the disk behind the last piece', () => {
  const calls: string[] = []
  const run = new WriteRun(fd, true, true, recorder(calls))
  for (let offset = 0; offset < 36 * MiB; offset += 65536) {
    run.next(offset, 65536)
  }
  expect(calls).toEqual([`write back 0+${16 * MiB}`, `write back ${16 * MiB}+${16 * MiB}`])
})

test('writes of a run may overtake each other', () => {
  const calls: string[] = []
  const run = new WriteRun(fd, true, true, recorder(calls))
  for (let offset = 0; offset < 32 * MiB; offset += 2 * MiB) {
    run.next(offset + MiB, 65536 * 3)
    run.next(offset, MiB - 1)
  }
  expect(calls.filter((call) => call.startsWith('write'))).toHaveLength(1)
})

test('scattered writes are left to the kernel', () => {
  const calls: string[] = []
  const run = new WriteRun(fd, true, true, recorder(calls))
  for (let i = 0; i < 20000; i++) {
    run.next(((i * 7919) % 16384) * 65536, 4096)
  }
  expect(calls).toEqual([])
})

test('so is everything if nobody will sync', () => {
  const calls: string[] = []
  const run = new WriteRun(fd, false, true, recorder(calls))
  for (let offset = 0; offset < 64 * MiB; offset += 65536) {
    run.next(offset, 65536)
  }
  expect(calls).toEqual([])
})

test('one piece at a time is on its way if this thread may not wait', async () => {
  const calls: string[] = []
  const run = new WriteRun(fd, true, false, recorder(calls))
  for (let offset = 0; offset < 40 * MiB; offset += 65536) {
    run.next(offset, 65536)
  }
  expect(calls).toEqual([`write back later 0+${16 * MiB}`])
  await run.settled()
  expect(run.settled()).toBeUndefined()
  run.next(40 * MiB, 65536)
  expect(calls[1]).toBe(`write back later ${16 * MiB}+${24 * MiB}`)
})

test('a kernel that refuses is not asked again', () => {
  const calls: string[] = []
  const run = new WriteRun(fd, true, true, recorder(calls, -95))
  for (let offset = 0; offset < 64 * MiB; offset += MiB) {
    run.next(offset, MiB)
  }
  expect(calls.filter((call) => call.startsWith('write'))).toHaveLength(1)
  expect(calls.filter((call) => call.startsWith('reserve'))).toHaveLength(ext4 ? 1 : 0)
})

test('large writes get their blocks first on ext4', () => {
  const calls: string[] = []
  const run = new WriteRun(fd, false, true, recorder(calls))
  run.next(5 * MiB, 262143)
  run.next(6 * MiB, 262144)
  expect(calls).toEqual(ext4 ? [`reserve ${6 * MiB}+262144`] : [])
})

test.each(['auto', 'sync', 'threads', 'foreground'] as const)(
  'length, holes and contents stay what they are, policy %s',
  async (io) => {
    const file = await createNodeHost({ io }).files.open(join(folder, 'file'), { write: true })
    const data = new Uint8Array(MiB).fill(7)
    for (let offset = 3 * MiB; offset < 40 * MiB; offset += MiB) {
      await file.write(offset, MiB - 5, data, 0)
    }
    expect(file.size()).toBe(40 * MiB - 5)
    await file.sync()
    const found = new Uint8Array(MiB)
    await file.read(20 * MiB, MiB, found, 0)
    expect(found.subarray(0, MiB - 5).every((byte) => byte === 7)).toBe(true)
    expect([...found.subarray(MiB - 5)]).toEqual([0, 0, 0, 0, 0])
    expect(file.seekData(0) ?? 3 * MiB).toBe(3 * MiB)
    await file.close()
    expect(fs.statSync(join(folder, 'file')).size).toBe(40 * MiB - 5)
  },
)
