import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isBlockError } from '../../../errors/index.js'
import {
  Backend,
  type BlockLayer,
  createBlockLayer,
  createFile,
  createWithDriver,
  truncateNode,
} from '../../../graph/index.js'
import { BlockStatus } from '../../../io/index.js'
import type { OptionTree } from '../../../options/index.js'
import { createNodeHost } from '../../../platform/node/index.js'
import { raw } from '../../format/raw/index.js'
import { hostDevice } from '../host_device/index.js'
import { file } from './index.js'

let folder = ''
const warnings: string[] = []
let layer: BlockLayer

beforeAll(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'blockgraph-file-'))
  const host = createNodeHost({
    warn: (line) => {
      warnings.push(line)
    },
  })
  layer = createBlockLayer({ host, drivers: [raw, file, hostDevice] })
})

afterAll(async () => {
  await layer.closeAll()
  fs.rmSync(folder, { recursive: true })
})

function at(name: string): string {
  return path.join(folder, name)
}

interface Outcome {
  readonly failed: boolean
  /** What QEMU prints after its own `tool: …: ` prefix, hint included. */
  readonly text: string
}

function qemu(tool: string, args: string[], prefix: string): Outcome {
  const run = spawnSync(tool, args, { encoding: 'utf8', input: '' })
  const text = run.stderr.trimEnd()
  return { failed: run.status !== 0, text: text.startsWith(prefix) ? text.slice(prefix.length) : text }
}

async function ours(run: () => Promise<unknown>): Promise<Outcome> {
  try {
    await run()
    return { failed: false, text: '' }
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
    return {
      failed: true,
      text: error.hint === undefined ? error.message : `${error.message}\n${error.hint}`,
    }
  }
}

async function create(name: string, values: Record<string, string | number | boolean>): Promise<void> {
  await createWithDriver(layer, raw, name, values)
}

/** Lock bytes held on a file, by anyone. */
function lockedBytes(name: string): number[] {
  const inode = String(fs.statSync(name).ino)
  const bytes = new Set<number>()
  for (const line of fs.readFileSync('/proc/locks', 'utf8').split('\n')) {
    const fields = line.trim().split(/\s+/)
    if (fields[5]?.split(':').at(-1) === inode) {
      for (let byte = Number(fields[6]); byte <= Number(fields[7]); byte++) {
        bytes.add(byte)
      }
    }
  }
  return [...bytes].sort((a, b) => a - b)
}

async function until(condition: () => boolean): Promise<void> {
  for (let tries = 0; !condition(); tries++) {
    if (tries > 500) {
      throw new Error('waited in vain')
    }
    await new Promise((resolve) => {
      setTimeout(resolve, 10)
    })
  }
}

/** Runs `body` while a qemu-io holds the image `name` open with `args`. */
async function whileHeld(name: string, args: string[], body: () => Promise<void>): Promise<void> {
  const child: ChildProcess = spawn('qemu-io', args, { stdio: ['pipe', 'ignore', 'inherit'] })
  const gone = new Promise((resolve) => {
    child.on('exit', resolve)
  })
  try {
    await until(() => lockedBytes(name).length > 0)
    await body()
  } finally {
    child.stdin?.end('quit\n')
    await gone
  }
}

async function extents(name: string, options: OptionTree): Promise<string[]> {
  const backend = await Backend.open(layer, name, options)
  const seen: string[] = []
  const status = new BlockStatus()
  try {
    for (let offset = 0; offset < backend.length; offset += status.bytes) {
      await backend.node.status(offset, backend.length - offset, 'zero', status)
      seen.push(`${offset}+${status.bytes} data=${status.data} zero=${status.zero} offset=${status.offset}`)
    }
  } finally {
    await backend.close()
  }
  return seen
}

function mapOfQemu(args: string[]): string[] {
  const map = JSON.parse(
    execFileSync('qemu-img', ['map', '--output=json', ...args], { encoding: 'utf8' }),
  ) as {
    start: number
    length: number
    data: boolean
    zero: boolean
    offset: number
  }[]
  return map.map((e) => `${e.start}+${e.length} data=${e.data} zero=${e.zero} offset=${e.offset}`)
}

describe('create as qemu-img does', () => {
  test.each([
    { size: 1 << 20 },
    { size: 1000 },
    { size: 0 },
    { size: 3 << 20, preallocation: 'off' },
    { size: 1 << 20, preallocation: 'falloc' },
    { size: (1 << 20) + 512, preallocation: 'full' },
    { size: 1 << 20, nocow: true, extent_size_hint: 1 << 20 },
  ])('%j', async (values) => {
    const options = Object.entries(values)
      .map(([key, value]) => `${key}=${value === true ? 'on' : value}`)
      .join(',')
    execFileSync('qemu-img', ['create', '-q', '-f', 'raw', '-o', options, at('theirs.raw')])
    await create(at('ours.raw'), values)
    const expected = fs.statSync(at('theirs.raw'))
    const actual = fs.statSync(at('ours.raw'))
    expect([actual.size, actual.blocks]).toEqual([expected.size, expected.blocks])
    expect(mapOfQemu(['-f', 'raw', at('ours.raw')])).toEqual(mapOfQemu(['-f', 'raw', at('theirs.raw')]))
    fs.rmSync(at('ours.raw'))
    fs.rmSync(at('theirs.raw'))
  })

  test('over an existing file, whose contents go', async () => {
    fs.writeFileSync(at('old.raw'), Buffer.alloc(65536, 7))
    await create(at('old.raw'), { size: 8192 })
    expect(fs.readFileSync(at('old.raw'))).toEqual(Buffer.alloc(8192))
  })

  test('a file: prefix is no part of the name, even if what follows looks like a protocol', async () => {
    const cwd = process.cwd()
    process.chdir(folder)
    try {
      await create('file:a:b', { size: 512 })
      expect(fs.existsSync('a:b')).toBe(true)
      const backend = await Backend.open(layer, 'file:a:b', { driver: 'raw' })
      expect(backend.node.filename).toBe('./a:b')
      await backend.close()
    } finally {
      process.chdir(cwd)
    }
  })

  test.each([
    ['missing/x.raw', { size: 512 }],
    ['.', { size: 512 }],
    ['/proc/x', { size: 512 }],
    ['/sys/x', { size: 512 }],
    ['/dev/null', { size: 512 }],
    ['/dev/full', { size: 1 << 20 }],
    ['/dev/null', { size: 0, preallocation: 'falloc' }],
    ['y.raw', { size: 512, preallocation: 'metadata' }],
    ['y.raw', { size: 512, preallocation: 'foo' }],
    ['y.raw', { size: 512, extent_size_hint: 2 ** 32 }],
  ])('refuses %s with %j in the same words', async (name, values) => {
    const target = path.resolve(folder, name)
    const options = Object.entries(values).map(([key, value]) => `${key}=${value}`)
    const theirs = qemu(
      'qemu-img',
      ['create', '-q', '-f', 'raw', '-o', options.join(','), target],
      `qemu-img: ${target}: `,
    )
    fs.rmSync(at('y.raw'), { force: true })
    expect(await ours(() => create(target, values))).toEqual(theirs)
    expect(theirs.failed).toBe(true)
    expect(fs.existsSync(at('y.raw'))).toBe(false)
  })

  test('an impossible size is too large, and nothing is left behind', async () => {
    await expect(create(at('z.raw'), { size: 2 ** 50 })).rejects.toMatchObject({ code: 'EFBIG' })
    await expect(create(at('z.raw'), { size: 2 ** 50, preallocation: 'falloc' })).rejects.toMatchObject({
      code: 'EFBIG',
    })
    await expect(createFile(layer, at('z.raw'), { size: 2 ** 50 })).rejects.toMatchObject({
      message: 'Could not resize file: File too large',
    })
    expect(fs.existsSync(at('z.raw'))).toBe(false)
  })
})

describe('open as qemu-io does', () => {
  test.each([
    'driver=file,filename=NOPE',
    'driver=file,filename=DIR',
    'driver=file,filename=/dev/null',
    'driver=host_device,filename=IMG',
    'driver=file,filename=IMG,aio=foo',
    'driver=file,filename=IMG,aio=native',
    'driver=file,filename=IMG,aio=native,cache.direct=on',
    'driver=file,filename=IMG,aio=io_uring',
    'driver=file,filename=IMG,aio=threads',
    'driver=file,filename=IMG,locking=maybe',
    'driver=file,filename=IMG,locking=on',
    'driver=file,filename=IMG,locking=off',
    'driver=file,filename=IMG,pr-manager=me',
    'driver=file,filename=IMG,drop-cache=x',
    'driver=file,filename=IMG,aio-max-batch=x',
    'driver=file,filename=IMG,aio-max-batch=3',
    'driver=file,filename=NOPE,aio=foo',
    'driver=file,filename=NOPE,aio=native',
    'driver=file,filename=DIR,aio=native',
    'driver=file',
    'driver=file,filename=',
    'driver=raw,offset=2000000,file.driver=file,file.filename=IMG',
    'driver=raw,offset=512,size=1M,file.driver=file,file.filename=IMG',
    'driver=raw,offset=512,size=1000,file.driver=file,file.filename=IMG',
    'driver=raw,offset=x,file.driver=file,file.filename=IMG',
    'driver=raw,offset=1,size=1024,file.driver=file,file.filename=IMG',
  ])('%s', async (text) => {
    fs.writeFileSync(at('img.raw'), Buffer.alloc(1_000_000))
    fs.mkdirSync(at('dir'), { recursive: true })
    const spec = text.replace('NOPE', at('nope')).replace('DIR', at('dir')).replace('IMG', at('img.raw'))
    const args = ['-r', '-c', 'quit', '--image-opts', spec]
    const prefix = `qemu-io: can't open: `
    const theirs = qemu('qemu-io', args, prefix)
    const entries = spec
      .split(',')
      .map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)])
    const result = await ours(async () => {
      const backend = await Backend.open(layer, undefined, Object.fromEntries(entries))
      await backend.close()
    })
    expect(result).toEqual(theirs)
  })

  test('the warning about a guessed format, and the guard of block 0', async () => {
    fs.writeFileSync(at('guess.raw'), Buffer.alloc(8192))
    const theirs = qemu('qemu-io', ['-c', 'quit', at('guess.raw')], '')
    warnings.length = 0
    const backend = await Backend.open(layer, at('guess.raw'), {}, { write: true })
    expect(warnings.join('\n')).toBe(theirs.text)
    await backend.write(0, 1024, new Uint8Array(1024).fill(1))
    expect(fs.readFileSync(at('guess.raw'))[1023]).toBe(1)
    await backend.close()
    warnings.length = 0
    await (await Backend.open(layer, at('guess.raw'))).close()
    expect(warnings).toEqual([])
  })
})

describe('map as qemu-img does', () => {
  test('holes, data, and an end within a sector', async () => {
    const name = at('holes.raw')
    const fd = fs.openSync(name, 'w')
    fs.writeSync(fd, Buffer.alloc(5000, 1), 0, 5000, 40960)
    fs.writeSync(fd, Buffer.alloc(100, 1), 0, 100, 999_900)
    fs.closeSync(fd)
    expect(await extents(name, { driver: 'raw' })).toEqual(mapOfQemu(['-f', 'raw', name]))
    const window = { driver: 'raw', offset: 1024, size: 500_224, file: { driver: 'file', filename: name } }
    const backend = await Backend.open(layer, undefined, window)
    expect(backend.length).toBe(500_224)
    await backend.close()
  })

  test('a window', async () => {
    const name = at('window.raw')
    const fd = fs.openSync(name, 'w')
    fs.writeSync(fd, Buffer.alloc(8192, 1), 0, 8192, 40960)
    fs.ftruncateSync(fd, 1 << 20)
    fs.closeSync(fd)
    const spec = `driver=raw,offset=36864,size=65536,file.driver=file,file.filename=${name}`
    const backend = await Backend.open(layer, undefined, {
      driver: 'raw',
      offset: 36864,
      size: 65536,
      file: { driver: 'file', filename: name },
    })
    const seen: string[] = []
    const status = new BlockStatus()
    for (let offset = 0; offset < backend.length; offset += status.bytes) {
      await backend.node.status(offset, backend.length - offset, 'zero', status)
      seen.push(`${offset}+${status.bytes} data=${status.data} zero=${status.zero} offset=${status.offset}`)
    }
    await backend.close()
    expect(seen).toEqual(mapOfQemu(['--image-opts', spec]))
    expect(seen).toHaveLength(3)
  })

  test('after zeroing and discarding', async () => {
    const name = at('punched.raw')
    fs.writeFileSync(name, Buffer.alloc(1 << 20, 9))
    const backend = await Backend.open(
      layer,
      name,
      { driver: 'raw', discard: 'unmap' },
      { write: true, unmap: true },
    )
    expect(await extents(name, { driver: 'raw' })).toEqual([`0+1048576 data=true zero=false offset=0`])
    await backend.writeZeroes(65536, 65536, 4)
    await backend.discard(262144, 65536)
    await backend.writeZeroes(524288, 65536)
    await backend.close()
    expect(await extents(name, { driver: 'raw' })).toEqual(mapOfQemu(['-f', 'raw', name]))
    const bytes = fs.readFileSync(name)
    expect(bytes.subarray(65536, 131072).every((byte) => byte === 0)).toBe(true)
    expect(bytes.subarray(524288, 589824).every((byte) => byte === 0)).toBe(true)
    expect(bytes[131072]).toBe(9)
  })
})

describe('resize as qemu-img does', () => {
  test.each(['off', 'falloc', 'full'] as const)('%s', async (preallocation) => {
    for (const name of ['a.raw', 'b.raw']) {
      fs.writeFileSync(at(name), Buffer.alloc(65536, 3))
    }
    execFileSync('qemu-img', ['resize', '-f', 'raw', `--preallocation=${preallocation}`, at('a.raw'), '3M'])
    const backend = await Backend.open(layer, at('b.raw'), { driver: 'raw' }, { write: true, resize: true })
    await truncateNode(backend.node, 3 << 20, { exact: true, preallocation, zero: false })
    expect(backend.length).toBe(3 << 20)
    await backend.close()
    const expected = fs.statSync(at('a.raw'))
    const actual = fs.statSync(at('b.raw'))
    expect([actual.size, actual.blocks]).toEqual([expected.size, expected.blocks])
    expect(mapOfQemu(['-f', 'raw', at('b.raw')])).toEqual(mapOfQemu(['-f', 'raw', at('a.raw')]))
  })

  test('refusals', async () => {
    fs.writeFileSync(at('c.raw'), Buffer.alloc(65536, 3))
    const theirs = qemu(
      'qemu-img',
      ['resize', '-f', 'raw', '--preallocation=metadata', at('c.raw'), '3M'],
      'qemu-img: ',
    )
    const backend = await Backend.open(layer, at('c.raw'), { driver: 'raw' }, { write: true, resize: true })
    const how = { exact: true, preallocation: 'metadata', zero: false } as const
    expect(await ours(() => truncateNode(backend.node, 3 << 20, how))).toEqual(theirs)
    await backend.close()
    const spec = `driver=raw,size=1024,file.driver=file,file.filename=${at('c.raw')}`
    const fixed = qemu('qemu-img', ['resize', '--image-opts', spec, '3M'], 'qemu-img: ')
    const window = { driver: 'raw', size: 1024, file: { driver: 'file', filename: at('c.raw') } }
    const other = await Backend.open(layer, undefined, window, { write: true, resize: true })
    expect(await ours(() => truncateNode(other.node, 3 << 20, { ...how, preallocation: 'off' }))).toEqual(
      fixed,
    )
    await other.close()
  })
})

describe('locks', () => {
  const image = (): string => {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', at('locked.img'), '1M'])
    return at('locked.img')
  }

  test.each([
    ['raw, read-write', ['-f', 'raw'], { driver: 'raw' }, true],
    ['raw, read-only', ['-r', '-f', 'raw'], { driver: 'raw' }, false],
    ['file, read-write', ['--image-opts', '-file-'], { driver: 'file' }, true],
    ['raw with an offset', ['--image-opts', '-window-'], { driver: 'raw', offset: 512 }, true],
    [
      'raw with an offset, read-only',
      ['-r', '--image-opts', '-window-'],
      { driver: 'raw', offset: 512 },
      false,
    ],
    ['force-share', ['-r', '-U', '-f', 'raw'], { driver: 'raw', 'force-share': true }, false],
    [
      'force-share with an offset',
      ['-r', '-U', '--image-opts', '-window-'],
      { driver: 'raw', offset: 512, 'force-share': true },
      false,
    ],
  ] as const)('%s: the same bytes', async (_title, args, options, write) => {
    const name = image()
    let expected: number[] = []
    const real = args.map((arg) =>
      arg === '-file-'
        ? `driver=file,filename=${name}`
        : arg === '-window-'
          ? `driver=raw,offset=512,file.driver=file,file.filename=${name}`
          : arg,
    )
    await whileHeld(name, args.includes('--image-opts' as never) ? real : [...real, name], async () => {
      expected = lockedBytes(name)
    })
    expect(lockedBytes(name)).toEqual([])
    const backend = await Backend.open(layer, name, options, { write })
    expect(lockedBytes(name)).toEqual(expected)
    await backend.close()
    expect(lockedBytes(name)).toEqual([])
  })

  test('locking=off takes none', async () => {
    const name = image()
    const backend = await Backend.open(layer, undefined, { driver: 'file', filename: name, locking: 'off' })
    expect(lockedBytes(name)).toEqual([])
    await backend.close()
  })

  test('a qemu-io that writes a qcow2 keeps us out, in its own words', async () => {
    const name = image()
    await whileHeld(name, [name], async () => {
      const before = lockedBytes(name)
      const theirs = qemu(
        'qemu-io',
        ['-f', 'raw', '-c', 'quit', name],
        `qemu-io: can't open device ${name}: `,
      )
      const open = (): Promise<unknown> => Backend.open(layer, name, { driver: 'raw' }, { write: true })
      expect(await ours(open)).toEqual(theirs)
      expect(theirs.text).toContain('Failed to get "write" lock')
      const created = qemu('qemu-img', ['create', '-q', '-f', 'raw', name, '1M'], `qemu-img: ${name}: `)
      expect(await ours(() => create(name, { size: 1 << 20 }))).toEqual(created)
      expect(created.failed).toBe(true)
      // Neither attempt has left locks behind or touched the image.
      expect(lockedBytes(name)).toEqual(before)
      const shared = await Backend.open(layer, name, { driver: 'raw', 'force-share': true })
      await shared.close()
    })
    expect(
      JSON.parse(execFileSync('qemu-img', ['info', '--output=json', name], { encoding: 'utf8' })),
    ).toMatchObject({
      format: 'qcow2',
    })
  })

  test('we keep qemu-io out, and let it in where we share', async () => {
    const name = image()
    const backend = await Backend.open(layer, name, { driver: 'raw' }, { write: true, noShare: true })
    const writer = qemu('qemu-io', ['-f', 'raw', '-c', 'quit', name], `qemu-io: can't open device ${name}: `)
    expect(writer).toEqual({
      failed: true,
      text: `Failed to get "write" lock\nIs another process using the image [${name}]?`,
    })
    const qcow2 = qemu('qemu-io', ['-r', '-c', 'quit', name], `qemu-io: can't open device ${name}: `)
    expect(qcow2.text).toContain('Failed to get shared "write" lock')
    expect(qemu('qemu-io', ['-r', '-f', 'raw', '-c', 'quit', name], '').failed).toBe(false)
    await backend.close()
    expect(qemu('qemu-io', ['-f', 'raw', '-c', 'quit', name], '').failed).toBe(false)
  })

  test('two users in this process conflict like two processes', async () => {
    const name = image()
    const first = await Backend.open(layer, name, { driver: 'raw' }, { write: true, noShare: true })
    await expect(Backend.open(layer, name, { driver: 'raw' }, { write: true })).rejects.toThrow(
      'Failed to get "write" lock',
    )
    const second = await Backend.open(layer, name, { driver: 'raw' })
    await second.close()
    await first.close()
  })

  test('auto-read-only: written to only while someone may write', async () => {
    const name = image()
    const options = { driver: 'raw', 'auto-read-only': true }
    const backend = await Backend.open(layer, name, options, { write: true }, { perm: 1, shared: 15 })
    expect(lockedBytes(name)).toEqual([100])
    const descriptor = (): string | undefined =>
      fs
        .readdirSync('/proc/self/fd')
        .filter((fd) => {
          try {
            return fs.readlinkSync(`/proc/self/fd/${fd}`) === name
          } catch {
            return false
          }
        })
        .map((fd) => fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8').match(/flags:\s*\d*(\d)/)?.[1])
        .join(' ')
    expect(descriptor()).toBe('0')
    await backend.setPermissions(3, 15)
    expect(lockedBytes(name)).toEqual([100, 101])
    expect(descriptor()).toBe('2')
    await backend.write(0, 4, Uint8Array.of(1, 2, 3, 4))
    await backend.setPermissions(1, 15)
    expect(descriptor()).toBe('0')
    expect(lockedBytes(name)).toEqual([100])
    const read = new Uint8Array(4)
    await backend.read(0, 4, read)
    expect([...read]).toEqual([1, 2, 3, 4])
    await backend.close()
  })
})
