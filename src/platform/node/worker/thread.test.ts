import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import type { HostFile, HostThread } from '../../../host/index.js'
import { createNodeHost } from '../index.js'
import { threadScript } from './script-fixture.js'

const folder = mkdtempSync(join(tmpdir(), 'blockgraph-thread-'))
let host: ReturnType<typeof createNodeHost>
const threads: HostThread[] = []

beforeAll(() => {
  host = createNodeHost({ threadScript: threadScript() })
})

afterEach(async () => {
  for (const thread of threads.splice(0)) {
    await thread.stop()
  }
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

async function start(): Promise<HostThread> {
  const thread = await host.threads?.start('io0')
  if (thread === undefined) {
    throw new Error('no threads')
  }
  threads.push(thread)
  return thread
}

function content(bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, i) => (i * 7 + (i >> 9)) & 255)
}

/** Vitest compares element by element. */
function same(a: Uint8Array, b: Uint8Array): void {
  expect(Buffer.compare(a, b)).toBe(0)
}

async function open(thread: HostThread, name: string, bytes: number, direct = false): Promise<HostFile> {
  writeFileSync(join(folder, name), content(bytes))
  const file = await host.files.open(join(folder, name), { write: true, direct })
  const twin = thread.adopt(file)
  if (twin === undefined) {
    throw new Error('not adopted')
  }
  return twin
}

/** What a thread of this process has moved by system calls, from the kernel. */
function transfers(id: number | undefined): { read: number; written: number } {
  const text = readFileSync(`/proc/self/task/${id}/io`, 'utf8')
  const figure = (name: string): number => Number(new RegExp(`^${name}: (\\d+)`, 'm').exec(text)?.[1])
  return { read: figure('rchar'), written: figure('wchar') }
}

test('transfers are made by the thread itself, by the account of the kernel', async () => {
  const thread = await start()
  const file = await open(thread, 'a', 1 << 20)
  const main = Number(readFileSync('/proc/self/stat', 'utf8').split(' ')[0])
  expect(thread.id).not.toBe(main)
  const before = { thread: transfers(thread.id), main: transfers(main) }
  const buffer = new Uint8Array(1 << 20)
  await file.read(0, 1 << 20, buffer, 0)
  same(buffer, content(1 << 20))
  await file.write(4096, 300000, content(300000), 0)
  const after = { thread: transfers(thread.id), main: transfers(main) }
  expect(after.thread.read - before.thread.read).toBe(1 << 20)
  // Waking the other side writes a few bytes, too.
  expect(after.thread.written - before.thread.written - 300000).toBeLessThan(100)
  expect(after.main.written - before.main.written).toBeLessThan(1000)
  await file.close()
})

test('sizes: past the end reads zeroes, writes grow, truncate, large transfers come in pieces', async () => {
  const thread = await start()
  const file = await open(thread, 'b', 1000)
  const buffer = new Uint8Array(3000).fill(9)
  await file.read(500, 2000, buffer, 100)
  expect(buffer.subarray(100, 600)).toEqual(content(1000).subarray(500))
  expect(buffer.subarray(600, 2100).every((byte) => byte === 0)).toBe(true)
  expect([buffer[99], buffer[2100]]).toEqual([9, 9])
  const large = content(9_500_000)
  await Promise.all([file.write(12345, large.length, large, 0), file.write(0, 5, content(5), 0)])
  expect(file.size()).toBe(12345 + large.length)
  const back = new Uint8Array(large.length)
  await file.read(12345, large.length, back, 0)
  same(back, large)
  await file.truncate(77)
  await file.sync()
  expect(file.size()).toBe(77)
  expect(await file.allocate(0, 1 << 20)).toBe(true)
  expect(await file.zeroRange(0, 4096)).toBe(true)
  expect(await file.punchHole(0, 65536)).toBe(true)
  expect(file.size()).toBe(1 << 20)
  await file.close()
})

test('requests are carried out in the order of the calls, however many there are', async () => {
  const thread = await start()
  const file = await open(thread, 'c', 4096)
  const waits: unknown[] = []
  for (let i = 0; i < 500; i++) {
    waits.push(file.write(0, 4096, new Uint8Array(4096).fill(i & 255), 0))
    if (i % 100 === 50) {
      const seen = new Uint8Array(4096)
      waits.push(
        file.read(0, 4096, seen, 0)?.then(() => {
          expect(seen.every((byte) => byte === (i & 255))).toBe(true)
        }),
      )
    }
  }
  await Promise.all(waits)
  expect(new Set(readFileSync(join(folder, 'c')))).toEqual(new Set([499 & 255]))
  await file.close()
})

test('O_DIRECT finds aligned memory; copies in the kernel take files of either kind', async () => {
  const thread = await start()
  const file = await open(thread, 'd', 1 << 20, true)
  const buffer = new Uint8Array(65536)
  await file.read(8192, 65536, buffer, 0)
  same(buffer, content(1 << 20).subarray(8192, 8192 + 65536))
  await file.write(0, 65536, buffer, 0)
  const plain = await host.files.open(join(folder, 'plain'), { create: true, write: true })
  expect(await file.copyTo(0, plain, 0, 4096)).toBe(4096)
  expect(await plain.copyTo(0, file, 4096, 4096)).toBe(4096)
  expect(new Uint8Array(readFileSync(join(folder, 'plain')))).toEqual(buffer.subarray(0, 4096))
  await plain.close()
  await file.close()
})

test('errors come back as errnos, and a thread that ends answers everything', async () => {
  const thread = await start()
  writeFileSync(join(folder, 'e'), 'x')
  const file = thread.adopt(await host.files.open(join(folder, 'e')))
  await expect(file?.write(0, 1, new Uint8Array(1), 0)).rejects.toMatchObject({ code: 'EBADF' })
  await thread.stop()
  await expect(file?.read(0, 1, new Uint8Array(1), 0)).rejects.toMatchObject({ code: 'EIO' })
  await file?.close()
  expect(thread.adopt({} as HostFile)).toBeUndefined()
})

test('a file closes only after what it has in flight', async () => {
  const thread = await start()
  const file = await open(thread, 'f', 4096)
  const bytes = content(1 << 20)
  const write = file.write(0, bytes.length, bytes, 0)
  const close = file.close()
  await Promise.all([write, close])
  same(readFileSync(join(folder, 'f')), bytes)
})

test('a thread does not keep the process alive, and what is in flight does', () => {
  const script = `
    import { createNodeHost } from ${JSON.stringify(join(folder, 'host.mjs'))}
    const host = createNodeHost({ threadScript: new URL(${JSON.stringify(threadScript().href)}) })
    const thread = await host.threads.start('t')
    const file = thread.adopt(await host.files.open(process.argv[2], { write: true }))
    file.write(0, 6, new TextEncoder().encode('hidden'), 0).then(() => console.log('written'))
  `
  writeFileSync(join(folder, 'script.mjs'), script)
  writeFileSync(join(folder, 'g'), '')
  // Packages are found from where the script stands.
  symlinkSync(resolve('node_modules'), join(folder, 'node_modules'))
  execFileSync('node_modules/.bin/esbuild', [
    'src/platform/node/index.ts',
    '--bundle',
    '--platform=node',
    '--format=esm',
    '--packages=external',
    `--outfile=${join(folder, 'host.mjs')}`,
    '--log-level=error',
  ])
  const out = execFileSync(process.execPath, [join(folder, 'script.mjs'), join(folder, 'g')], {
    encoding: 'utf8',
    timeout: 20_000,
  })
  expect([out, readFileSync(join(folder, 'g'), 'utf8')]).toEqual(['written\n', 'hidden'])
})
