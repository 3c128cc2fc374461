import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createLibrary, isBlockError } from '../../../src/index.js'
import { finish, ourTool, Served } from './servers.js'

// The nbd driver and -L on servers of QEMU, nbdkit and our own, beside qemu-img.

const ourImg = fileURLToPath(new URL('../../../bin/blockgraph-img', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'nbd-client-'))
const socket = join(folder, 's')
const MiB = 1 << 20
const port = 30000 + (process.pid % 20000)

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

function pattern(bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, i) => (i * 7 + (i >> 9)) & 255)
}

beforeAll(() => {
  writeFileSync(join(folder, 'a.raw'), pattern(MiB))
})

async function failure(run: () => unknown): Promise<string> {
  try {
    await run()
  } catch (error) {
    if (isBlockError(error)) {
      return error.message
    }
    throw error
  }
  throw new Error('expected a failure')
}

function start(program: string, ...args: string[]): Promise<Served> {
  rmSync(socket, { force: true })
  return Served.start(program, ['-k', socket, ...args], socket, folder)
}

describe('names and options', () => {
  const unix = `"server":{"type":"unix","path":"${socket}"}`
  const names = [
    `nbd+unix:///foo?socket=${socket}`,
    `nbd:unix:${socket}:exportname=foo`,
    `nbd+unix:///nope?socket=${socket}`,
    `nbd+unix:///?socket=${socket}.none`,
    `nbd://127.0.0.1:${port}/`,
    `nbd:127.0.0.1:${port}`,
    `nbd:127.0.0.1:${port}:exportname=bar`,
    `nbd+tcp://user@127.0.0.1:${port}`,
    `nbd://[::1]:${port}/x`,
    'nbd://127.0.0.1:99999',
    'nbd:',
    'nbd:foo',
    'nbd:host:',
    'nbd:host:port:exportname=',
    'nbd+unix://host/foo?socket=/x',
    'nbd+unix:///foo',
    'nbd:///foo',
    'nbd://h?socket=x',
    'nbds://localhost/',
    `nbd+unix:///foo?socket=${socket}&a=b`,
    `json:{"driver":"nbd",${unix},"export":"foo"}`,
    `json:{"driver":"nbd",${unix},"export":"foo","reconnect-delay":5}`,
    `json:{"driver":"nbd",${unix},"export":"foo","x-dirty-bitmap":"qemu:dirty-bitmap:b"}`,
    `json:{"driver":"nbd",${unix},"export":"foo","tls-creds":"b"}`,
    `json:{"driver":"nbd",${unix},"export":"foo","bogus":1}`,
    `json:{"driver":"nbd",${unix},"path":"/x"}`,
    `json:{"driver":"nbd","path":"${socket}","export":"foo"}`,
    `json:{"driver":"nbd","host":"127.0.0.1","port":${port}}`,
    '{"driver":"nbd","host":"127.0.0.1","path":"/x"}',
    '{"driver":"nbd"}',
    '{"driver":"nbd","port":"3"}',
    '{"driver":"nbd","server":{"type":"inet","host":"127.0.0.1"}}',
    '{"driver":"nbd","server":{"type":"unix"}}',
    '{"driver":"nbd","server.type":"bad"}',
    '{"driver":"nbd","server":{"type":"unix","path":"/x","foo":1}}',
  ].map((name) => (name.startsWith('{') ? `json:${name}` : name))

  test('lead to what qemu-img finds, or are refused in its words', async () => {
    await using _tcp = await Served.start(
      'qemu-nbd',
      ['-t', '-e', '9', '-b', '127.0.0.1', '-p', String(port), '-f', 'raw', 'a.raw'],
      undefined,
      folder,
    )
    await using _unix = await start(
      'qemu-nbd',
      '-t',
      '-e',
      '9',
      '-x',
      'foo',
      '-D',
      'text',
      '-f',
      'raw',
      'a.raw',
    )
    for (const name of names) {
      const [theirs, ours] = await Promise.all([
        finish('qemu-img', ['info', name], folder),
        finish(ourImg, ['info', name], folder),
      ])
      expect({ name, ...ours, stderr: ours.stderr.replaceAll('blockgraph-img', 'qemu-img') }).toEqual({
        name,
        ...theirs,
      })
    }
    for (const args of [
      ['-k', socket],
      ['-k', `${socket}.none`],
      ['-b', '127.0.0.1', '-p', String(port)],
    ]) {
      const theirs = await finish('qemu-nbd', ['-L', ...args])
      const ours = await finish(ourTool, ['-L', ...args])
      expect({ ...ours, stderr: ours.stderr.replaceAll('blockgraph-nbd', 'qemu-nbd') }).toEqual(theirs)
    }
  }, 60_000)
})

describe('data', () => {
  const spec = { driver: 'raw', file: { driver: 'nbd', server: { type: 'unix', path: socket } } }

  test.each([
    ['qemu-nbd', 'qemu-nbd'],
    ['ours', ourTool],
  ])('is read, written, zeroed, discarded and described on %s', async (_name, program) => {
    await finish('qemu-img', ['create', '-q', '-f', 'qcow2', 'd.qcow2', '8M'], folder)
    {
      await using _served = await start(program, '-t', '-e', '2', '--discard=unmap', '-f', 'qcow2', 'd.qcow2')
      const { openImage } = createLibrary()
      await using image = await openImage(spec, { readOnly: false })
      const data = pattern(3 * MiB + 4097)
      await image.write(777, data)
      await image.writeZeroes(MiB, 100_000, { unmap: true })
      data.fill(0, MiB - 777, MiB - 777 + 100_000)
      await image.write(5 * MiB, new Uint8Array(4096).fill(9), { fua: true })
      await image.discard(6 * MiB, MiB)
      await image.flush()
      const pieces = await Promise.all(
        Array.from({ length: 100 }, (_, i) => image.read(777 + i * 30_000, 30_000)),
      )
      for (const [i, piece] of pieces.entries()) {
        expect(Buffer.compare(piece, data.subarray(i * 30_000, (i + 1) * 30_000))).toBe(0)
      }
      expect(Buffer.compare(await image.read(777, data.length), data)).toBe(0)
      const map: string[] = []
      for await (const { start, length, data: isData, zero } of image.map()) {
        map.push(`${start} ${length} ${isData} ${zero}`)
      }
      const { stdout } = await finish('qemu-img', [
        'map',
        '--output=json',
        '-f',
        'raw',
        `nbd+unix://?socket=${socket}`,
      ])
      // What is zero on a server may stand in its file: qemu-img says so, a place for the node has no use for it.
      const wanted = (
        JSON.parse(stdout) as { start: number; length: number; data: boolean; zero: boolean }[]
      ).map((extent) => `${extent.start} ${extent.length} ${extent.data} ${extent.zero}`)
      expect(map).toEqual(wanted)
      expect(await failure(() => image.resize(9 * MiB))).toBe('Cannot resize NBD nodes')
    }
    const read = ['-c', 'read -P 9 5M 4k', '-c', 'read -P 0 1M 100000', 'd.qcow2']
    expect((await finish('qemu-io', read, folder)).stdout).not.toContain('failed')
  })

  test('is read from nbdkit with and without structured replies, block sizes and fixed handshakes', async () => {
    for (const extra of [
      [],
      ['--no-sr'],
      ['--mask-handshake=0'],
      ['--oldstyle'],
      [
        '--filter=blocksize-policy',
        'blocksize-minimum=4k',
        'blocksize-preferred=64k',
        'blocksize-maximum=128k',
      ],
    ]) {
      rmSync(socket, { force: true })
      const [filter, ...parameters] = extra
      const args = [
        ...(filter === undefined ? [] : [filter]),
        ...['-f', '-U', socket, 'file', 'a.raw'],
        ...(filter?.startsWith('--filter') === true ? parameters : []),
      ]
      await using _served = await Served.start('nbdkit', args, socket, folder)
      const { openImage } = createLibrary()
      await using image = await openImage(spec)
      expect(Buffer.compare(await image.read(0, MiB), pattern(MiB))).toBe(0)
      expect(Buffer.compare(await image.read(1000, 5000), pattern(MiB).subarray(1000, 6000))).toBe(0)
    }
  }, 30_000)

  test('errors of the server come through, and a read-only export takes no writer', async () => {
    rmSync(socket, { force: true })
    const error = ['--filter=error', 'error=ENOSPC', 'error-pwrite-rate=100%']
    {
      await using _served = await Served.start(
        'nbdkit',
        [error[0] as string, '-f', '-U', socket, 'memory', '1M', ...error.slice(1)],
        socket,
        folder,
      )
      const { openImage } = createLibrary()
      await using image = await openImage(spec, { readOnly: false })
      expect(await failure(() => image.write(0, new Uint8Array(512)))).toBe('No space left on device')
      expect((await image.read(0, 512)).every((byte) => byte === 0)).toBe(true)
    }
    await using _served = await start('qemu-nbd', '-t', '-r', '-f', 'raw', 'a.raw')
    const [theirs, ours] = await Promise.all(
      ['qemu-img', ourImg].map((tool) =>
        finish(tool, ['resize', '-f', 'raw', `nbd+unix://?socket=${socket}`, '1M']),
      ),
    )
    expect(ours?.stderr.replaceAll('blockgraph-img', 'qemu-img')).toBe(theirs?.stderr)
  })

  test('a dirty bitmap is seen in place of the block status', async () => {
    await finish('qemu-img', ['create', '-q', '-f', 'qcow2', 'b.qcow2', '4M'], folder)
    await finish('qemu-img', ['bitmap', '--add', 'b.qcow2', 'b0'], folder)
    await finish('qemu-io', ['-c', 'write 1M 64k', '-c', 'write 3M 128k', 'b.qcow2'], folder)
    for (const program of ['qemu-nbd', ourTool]) {
      await using _served = await start(program, '-t', '-B', 'b0', '-f', 'qcow2', 'b.qcow2')
      const name = `driver=nbd,server.type=unix,server.path=${socket},x-dirty-bitmap=qemu:dirty-bitmap:b0`
      const args = ['map', '--output=json', '--image-opts', name]
      expect(await finish(ourImg, args, folder)).toEqual(await finish('qemu-img', args, folder))
    }
  })
})

describe('the connection', () => {
  test('comes back within reconnect-delay, and requests go on', async () => {
    const options = { driver: 'nbd', server: { type: 'unix', path: socket } }
    const { openImage } = createLibrary()
    const first = await start('qemu-nbd', '-t', '-f', 'raw', 'a.raw')
    const patient = await openImage({ driver: 'raw', file: { ...options, 'reconnect-delay': 10 } })
    expect(Buffer.compare(await patient.read(0, 4096), pattern(4096))).toBe(0)
    first.child.kill('SIGKILL')
    await first.ended
    const read = patient.read(4096, 4096)
    await using _second = await start('qemu-nbd', '-t', '-e', '3', '-f', 'raw', 'a.raw')
    expect(Buffer.compare(await read, pattern(8192).subarray(4096))).toBe(0)
    await patient.close()
  }, 20_000)

  test('fails requests when it is lost, and opening waits for a server with open-timeout', async () => {
    const options = { driver: 'nbd', server: { type: 'unix', path: socket } }
    const { openImage } = createLibrary()
    const first = await start('qemu-nbd', '-t', '-f', 'raw', 'a.raw')
    const image = await openImage({ driver: 'raw', file: options })
    first.child.kill('SIGKILL')
    await first.ended
    expect(await failure(() => image.read(0, 4096))).toBe('Input/output error')
    await image.close()
    rmSync(socket, { force: true })
    const opening = openImage({ driver: 'raw', file: { ...options, 'open-timeout': 10 } })
    await using _second = await start('qemu-nbd', '-t', '-f', 'raw', 'a.raw')
    await (await opening).close()
  }, 20_000)

  test('refuses servers that do not keep to the protocol', async () => {
    const { openImage } = createLibrary()
    for (const [bytes, text] of [
      ['garbage and more', 'Bad initial magic received: 0x6761726261676520'],
      ['NBDMAGICgarbage!', 'Bad server magic received: 0x6761726261676521'],
      ['NBD', 'Failed to read initial magic: Unexpected end-of-file before all bytes were read'],
    ] as const) {
      rmSync(socket, { force: true })
      const server = createServer((one) => one.end(bytes))
      await new Promise<void>((resolve) => server.listen(socket, resolve))
      const spec = { driver: 'nbd', server: { type: 'unix', path: socket } }
      expect(await failure(() => openImage(spec))).toContain(text)
      server.close()
    }
    expect(readFileSync(join(folder, 'a.raw')).length).toBe(MiB)
  })
})
