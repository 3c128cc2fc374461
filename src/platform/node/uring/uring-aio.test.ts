import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { codeOf } from '../../../errors/index.js'
import { type AioBackend, poolAio } from '../aio-backend.js'
import { AioBackends } from '../aio-backends.js'
import { createNodeHost } from '../host.js'
import { type Libc, libc } from '../libc.js'
import { Ring } from './ring.js'
import { UringAio } from './uring-aio.js'

let folder = ''
const native = libc() as Libc

beforeAll(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'blockgraph-uring-'))
})

afterAll(() => {
  fs.rmSync(folder, { recursive: true })
})

function content(bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, i) => (i * 7 + (i >> 9)) & 255)
}

function ringsOpen(): number {
  return fs.readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return fs.readlinkSync(`/proc/self/fd/${fd}`).includes('io_uring')
    } catch {
      return false
    }
  }).length
}

function ringsMapped(): number {
  return fs
    .readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes('io_uring')).length
}

/** The real thing, whatever this machine offers otherwise: without it these tests have nothing to test. */
function uring(foreground: boolean): UringAio {
  const aio = UringAio.open(native, foreground)
  if (aio === undefined) {
    throw new Error('this kernel has no io_uring')
  }
  return aio
}

describe.each([true, false])('foreground %s', (foreground) => {
  async function withFile(bytes: Uint8Array, run: (aio: AioBackend, fd: number) => Promise<void>) {
    const aio = uring(foreground)
    const fd = fs.openSync(join(folder, 'f'), 'w+')
    fs.writeSync(fd, bytes)
    try {
      await run(aio, fd)
    } finally {
      await aio.close()
      fs.closeSync(fd)
    }
  }

  test('transfers: any place, past the end, more than the ring holds', async () => {
    await withFile(content(100_000), async (aio, fd) => {
      const buffer = new Uint8Array(5000).fill(9)
      await aio.read(fd, 98_000, 4000, buffer, 100, 1)
      expect(Buffer.compare(buffer.subarray(100, 2100), content(100_000).subarray(98_000))).toBe(0)
      expect(buffer.subarray(2100, 4100).every((byte) => byte === 0)).toBe(true)
      expect([buffer[99], buffer[4100]]).toEqual([9, 9])
      await aio.read(fd, 5_000_000_000, 10, buffer, 0, 1)
      expect(buffer.subarray(0, 10).every((byte) => byte === 0)).toBe(true)
      const all = content(3_000_000)
      await Promise.all(
        Array.from({ length: 3000 }, (_, i) => aio.write(fd, 5_000_000_000 + i * 1000, 1000, all, i * 1000)),
      )
      const back = new Uint8Array(all.length)
      await Promise.all(
        Array.from({ length: 3000 }, (_, i) =>
          aio.read(fd, 5_000_000_000 + i * 1000, 1000, back, i * 1000, 1),
        ),
      )
      expect(Buffer.compare(all, back)).toBe(0)
      await aio.sync(fd)
    })
  })

  test('fallocate and failures answer with errnos', async () => {
    await withFile(content(10), async (aio, fd) => {
      expect(await aio.fallocate(fd, 0, 0, 1 << 20)).toBe(0)
      expect(fs.fstatSync(fd).size).toBe(1 << 20)
      expect(await aio.fallocate(fd, 3, 0, 65536)).toBe(0)
      expect(await aio.fallocate(fd, 0x7fff, 0, 65536)).toBeLessThan(0)
      const reader = fs.openSync(join(folder, 'f'), 'r')
      const failure = async (run: Promise<void>): Promise<string> => {
        try {
          await run
        } catch (error) {
          return codeOf(error)
        }
        return 'none'
      }
      expect(await failure(aio.write(reader, 0, 10, content(10), 0))).toBe('EBADF')
      fs.closeSync(reader)
      expect(await failure(aio.read(reader, 0, 10, content(10), 0, 1))).toBe('EBADF')
      expect(await failure(aio.sync(reader))).toBe('EBADF')
      const full = fs.openSync('/dev/full', 'r+')
      expect(await failure(aio.write(full, 0, 10, content(10), 0))).toBe('ENOSPC')
      fs.closeSync(full)
    })
  })

  test('what takes long is waited for asleep', async () => {
    const aio = uring(foreground)
    // A reader of an empty pipe waits for its writer.
    execFileSync('mkfifo', [join(folder, `fifo${foreground}`)])
    const fd = fs.openSync(join(folder, `fifo${foreground}`), 'r+')
    const before = process.cpuUsage()
    const buffer = new Uint8Array(5)
    const read = aio.read(fd, 0, 5, buffer, 0, 1)
    await new Promise((resolve) => {
      setTimeout(resolve, 300)
    })
    const { user, system } = process.cpuUsage(before)
    expect((user + system) / 1000).toBeLessThan(200)
    fs.writeSync(fd, 'hello')
    await read
    expect(Buffer.from(buffer).toString()).toBe('hello')
    await aio.close()
    fs.closeSync(fd)
  })
})

test('a ring lives from the first user to the last', async () => {
  const backends = new AioBackends(false)
  const before = ringsOpen()
  const users = [backends.acquire('io_uring'), backends.acquire('native')]
  expect(users[0]).toBe(users[1])
  expect(backends.acquire('threads')).toBe(poolAio)
  expect(ringsOpen()).toBe(before + 1)
  expect(ringsMapped()).toBeGreaterThan(0)
  for (const user of users) {
    await backends.release(user)
  }
  expect([ringsOpen(), ringsMapped()]).toEqual([before, 0])
})

test('closing many files leaves nothing behind', async () => {
  const { files } = createNodeHost({ aio: 'io_uring' })
  const path = join(folder, 'many')
  const before = ringsOpen()
  for (let i = 0; i < 50; i++) {
    const file = await files.open(path, { write: true, create: true })
    const writes = [file.write(i, 100, content(100), 0), file.write(i + 5000, 100, content(100), 0)]
    await Promise.all(writes)
    await file.close()
  }
  expect([ringsOpen(), ringsMapped()]).toEqual([before, 0])
})

test('a kernel that refuses gets the pool, and is asked once', async () => {
  let asked = 0
  const refusing = (setup: Libc['uringSetup'], rest: Partial<Libc> = {}): Libc => ({
    ...native,
    pageSize: 4096,
    ...rest,
    uringSetup: (entries, params) => {
      asked++
      return setup(entries, params)
    },
  })
  const before = ringsOpen()
  expect(
    UringAio.open(
      refusing(() => -38),
      false,
    ),
  ).toBeUndefined()
  expect(
    Ring.open(
      refusing(() => -1),
      8,
    ),
  ).toBe(-1)
  expect(asked).toBe(2)
  // Set up, but not to be used: nothing stays open.
  for (const rest of [
    { uringEnter: () => -1 },
    { uringRegister: () => -22 },
    { map: () => undefined },
    {
      map: () => {
        throw new Error('no foreign memory')
      },
    },
  ] satisfies Partial<Libc>[]) {
    expect(UringAio.open(refusing(native.uringSetup, rest), false)).toBeUndefined()
  }
  expect([ringsOpen(), ringsMapped()]).toEqual([before, 0])
  // Kernels before 5.19 do not know how completions are asked for.
  const old = refusing((entries, params) => (params[9] === 1 ? -22 : native.uringSetup(entries, params)))
  const aio = UringAio.open(old, false)
  expect(aio).toBeDefined()
  await aio?.close()
})
