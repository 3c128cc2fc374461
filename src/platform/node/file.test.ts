import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type BlockError, codeOf } from '../../errors/index.js'
import type { HostFile } from '../../host/index.js'
import { createNodeHost, type NodeHostOptions } from './host.js'
import { libc } from './libc.js'

const policies = ['auto', 'foreground', 'sync', 'threads'] as const
let folder = ''

beforeAll(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'blockgraph-file-'))
})

afterAll(() => {
  fs.rmSync(folder, { recursive: true })
})

let count = 0

/** An open file with these contents. */
async function opened(
  io: (typeof policies)[number],
  contents: Uint8Array,
  options: NodeHostOptions = {},
): Promise<HostFile> {
  const path = join(folder, `f${count++}`)
  fs.writeFileSync(path, contents)
  return await createNodeHost({ io, ...options }).files.open(path, { write: true })
}

function pattern(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8) * 7 + 1) & 0xff)
}

describe.each(policies)('policy %s', (io) => {
  test('reads what was written, at any offset into any part of a buffer', async () => {
    const file = await opened(io, new Uint8Array(0))
    const data = pattern(300_000)
    await file.write(12_345, 200_000, data, 777)
    await file.write(5, 100, data, 0)
    expect(file.size()).toBe(212_345)
    const back = new Uint8Array(250_000).fill(0xee)
    await file.read(12_345, 200_000, back, 1000)
    expect(Buffer.compare(back.subarray(1000, 201_000), data.subarray(777, 200_777))).toBe(0)
    expect(back[999]).toBe(0xee)
    expect(back[201_000]).toBe(0xee)
    await file.read(0, 110, back, 0)
    expect(back.subarray(0, 110)).toEqual(
      Uint8Array.from([0, 0, 0, 0, 0, ...data.subarray(0, 100), 0, 0, 0, 0, 0]),
    )
    await file.sync()
    await file.close()
  })

  test('what lies past the end reads as zeroes', async () => {
    const data = pattern(5000)
    const file = await opened(io, data)
    const buffer = new Uint8Array(3_000_000).fill(0xee)
    await file.read(4000, 2_500_000, buffer, 10)
    expect(buffer.subarray(10, 1010)).toEqual(data.subarray(4000))
    expect(buffer.subarray(1010, 2_500_010).every((byte) => byte === 0)).toBe(true)
    expect(buffer[2_500_010]).toBe(0xee)
    buffer.fill(0xee)
    await file.read(5000, 10, buffer, 0)
    await file.read(1_000_000, 10, buffer, 10)
    expect(buffer.subarray(0, 21)).toEqual(Uint8Array.from([...new Array(20).fill(0), 0xee]))
    await file.read(0, 0, buffer, 0)
    await file.close()
  })

  test('data not in the page cache is read all the same', async () => {
    const data = pattern(2 << 20)
    const file = await opened(io, data)
    await file.sync()
    file.dropCache(0, data.length)
    const buffer = new Uint8Array(data.length)
    const waits = []
    for (let at = 0; at < data.length; at += 65536) {
      waits.push(file.read(at, 65536, buffer, at))
    }
    await Promise.all(waits)
    expect(Buffer.compare(buffer, data)).toBe(0)
    await file.close()
  })

  test('truncating cuts and grows', async () => {
    const file = await opened(io, pattern(1000))
    await file.truncate(10)
    expect(file.size()).toBe(10)
    await file.truncate(5000)
    expect(file.size()).toBe(5000)
    const buffer = new Uint8Array(5000).fill(1)
    await file.read(0, 5000, buffer, 0)
    expect(buffer.subarray(0, 10)).toEqual(pattern(10))
    expect(buffer.subarray(10).every((byte) => byte === 0)).toBe(true)
    await file.close()
  })

  test('writing to a file opened for reading fails with EBADF', async () => {
    const path = join(folder, `f${count++}`)
    fs.writeFileSync(path, 'text')
    const file = await createNodeHost({ io }).files.open(path)
    expect(file.writable).toBe(false)
    for (const bytes of [10, 100_000]) {
      const error = await failure(() => file.write(0, bytes, new Uint8Array(bytes), 0))
      expect(error.code).toBe('EBADF')
      expect(error.message).toBe('Bad file descriptor')
    }
    await file.close()
  })

  test('stat tells size, identity and kind', async () => {
    const file = await opened(io, pattern(10_000))
    const link = `${file.path}.link`
    fs.linkSync(file.path, link)
    const { files } = createNodeHost()
    expect(file.kind).toBe('regular')
    expect(file.alignment).toEqual({ request: 1, memory: 1 })
    expect(file.stat()).toMatchObject({ kind: 'regular', size: 10_000 })
    expect(file.stat().identity).toBe(files.stat(link)?.identity)
    expect(file.stat().identity).not.toBe(files.stat(folder)?.identity)
    expect(file.stat().allocated % 512).toBe(0)
    await file.close()
    await file.close()
  })
})

async function failure(run: () => unknown): Promise<BlockError> {
  try {
    await run()
  } catch (error) {
    codeOf(error)
    return error as BlockError
  }
  throw new Error('should have failed')
}

test.runIf(libc() !== undefined)('cached reads make no promise, uncached ones do not block', async () => {
  const data = pattern(1 << 20)
  // Not what the environment may say: `native` keeps the answers of the page cache.
  const file = await opened('auto', data, { aio: 'native' })
  const buffer = new Uint8Array(1 << 20)
  expect(file.read(4096, 65536, buffer, 0)).toBeUndefined()
  expect(Buffer.compare(buffer.subarray(0, 65536), data.subarray(4096, 4096 + 65536))).toBe(0)
  expect(file.read(data.length - 100, 200, buffer, 0)).toBeUndefined()
  expect(file.write(0, 65536, buffer, 0)).toBeUndefined()
  const waiting = file.write(0, 65537, buffer, 0)
  expect(waiting).toBeInstanceOf(Promise)
  await waiting
  await file.close()
})

test('foreground writes of any size make no promise', async () => {
  const file = await opened('foreground', pattern(1000), { aio: 'native' })
  const data = pattern(3 << 20)
  expect(file.write(10, data.length, data, 0)).toBeUndefined()
  const back = new Uint8Array(data.length)
  await file.read(10, back.length, back, 0)
  expect(Buffer.compare(back, data)).toBe(0)
  await file.close()
})

test('the memory of different buffers is told apart', async () => {
  const data = pattern(65536)
  const file = await opened('auto', data)
  const shared = new Uint8Array(new SharedArrayBuffer(4096))
  const tiny = new Uint8Array(8)
  const inPool = Buffer.allocUnsafe(100)
  const slice = new Uint8Array(new ArrayBuffer(9000), 1001, 5000)
  for (const buffer of [shared, tiny, inPool, slice, new Uint8Array(4096)]) {
    for (const offset of [0, 3, 60_000]) {
      const bytes = buffer.length - 2
      await file.read(offset, bytes, buffer, 1)
      expect(Buffer.compare(buffer.subarray(1, 1 + bytes), data.subarray(offset, offset + bytes))).toBe(0)
    }
  }
  await file.close()
})

test('requests that do not fit their buffer never reach the kernel', async () => {
  const file = await opened('auto', pattern(10_000))
  const buffer = new Uint8Array(100)
  expect(() => file.read(0, 101, buffer, 0)).toThrow(RangeError)
  expect(() => file.read(0, 50, buffer, 51)).toThrow(RangeError)
  expect(() => file.read(-1, 50, buffer, 0)).toThrow(RangeError)
  expect(() => file.read(Number.NaN, 50, buffer, 0)).toThrow(RangeError)
  expect(() => file.write(0, 50, buffer, -1)).toThrow(RangeError)
  const gone = new Uint8Array(4096)
  await file.read(0, 4096, gone, 0)
  structuredClone(gone, { transfer: [gone.buffer] })
  expect(() => file.read(0, 4096, gone, 0)).toThrow(RangeError)
  await file.close()
})

test('the errno of a failed request is kept', async () => {
  const path = join(folder, 'closed')
  fs.writeFileSync(path, 'text')
  const { files } = createNodeHost()
  const directory = await files.open(folder)
  expect(directory.kind).toBe('directory')
  const error = await failure(() => directory.read(0, 10, new Uint8Array(10), 0))
  expect(error.code).toBe('EISDIR')
  expect(error.message).toBe('Is a directory')
  await directory.close()
})

test('a full file system gives ENOSPC', async ({ skip }) => {
  const mount = join(folder, 'small')
  fs.mkdirSync(mount)
  const { execFileSync } = await import('node:child_process')
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', mount], { stdio: 'ignore' })
  } catch {
    skip()
  }
  try {
    for (const io of policies) {
      const file = await createNodeHost({ io }).files.open(join(mount, io), { write: true, create: true })
      const error = await failure(() => file.write(0, 1 << 20, new Uint8Array(1 << 20), 0))
      expect(error.code).toBe('ENOSPC')
      expect(error.message).toBe('No space left on device')
      if (libc() !== undefined) {
        const large = await failure(() => file.allocate(0, 1 << 20))
        expect(large.code).toBe('ENOSPC')
        const later = await failure(() => file.allocate(0, 200 << 20))
        expect(later.code).toBe('ENOSPC')
      }
      await file.close()
      fs.unlinkSync(file.path)
    }
  } finally {
    execFileSync('umount', [mount])
  }
})
