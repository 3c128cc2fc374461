import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { openImage } from '../../../src/index.js'
import { finish, isListening, ourTool, Served } from './servers.js'

// Programs of other makers at both ends of our connections: nbdsh (libnbd), nbd-client, and nbdkit with its filters.

const root = fileURLToPath(new URL('../../..', import.meta.url))
const ourImg = join(root, 'bin/blockgraph-img')
const folder = mkdtempSync(join(tmpdir(), 'nbd-others-'))
const socket = join(folder, 's')
const second = join(folder, 'k')
const MiB = 1 << 20

beforeAll(() => {
  if (!existsSync(join(root, 'dist/tools/bundle.json'))) {
    execFileSync(process.execPath, ['scripts/build.mjs', '--no-types'], { cwd: root, stdio: 'pipe' })
  }
}, 120_000)

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

function pattern(bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, i) => (i * 13 + (i >> 10)) & 255)
}

async function run(program: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await finish(program, args, folder)
  expect(code, `${program} ${args.join(' ')}: ${stderr}`).toBe(0)
  return stdout
}

function serve(program: string, ...args: string[]): Promise<Served> {
  rmSync(socket, { force: true })
  return Served.start(program, ['-t', '-k', socket, ...args], socket, folder)
}

function nbdkit(...args: string[]): Promise<Served> {
  rmSync(second, { force: true })
  return Served.start('nbdkit', ['-f', '-U', second, ...args], second, folder)
}

/** What the script prints, as one line of text each. nbdsh is the Python of the system. */
function nbdsh(...lines: string[]): Promise<string> {
  return run('/usr/bin/python3', '-m', 'nbd', '-c', ['import os', ...lines].join('\n'))
}

const scripts: readonly (readonly [string, readonly string[], readonly string[]])[] = [
  [
    'what is agreed on',
    ['-e', '3', '-A', '-x', 'disk', '-D', 'a disk'],
    [
      'h.set_opt_mode(True)',
      'h.add_meta_context("base:")',
      'h.set_export_name("disk")',
      `h.connect_unix("${socket}")`,
      'print(h.get_protocol(), h.get_structured_replies_negotiated())',
      'names = []',
      'print(h.opt_list(lambda name, text: names.append((name, text))), names)',
      'contexts = []',
      'h.clear_meta_contexts()',
      'print(h.opt_list_meta_context(lambda name: contexts.append(name)), contexts)',
      'h.opt_info()',
      'print(h.get_size(), h.is_read_only(), h.can_flush(), h.can_fua(), h.can_trim(), h.can_zero(), h.can_fast_zero())',
      'print(h.can_df(), h.can_cache(), h.can_multi_conn(), h.is_rotational())',
      'print([h.get_block_size(i) for i in range(3)])',
      'h.set_export_name("none")',
      'try:',
      '  h.opt_info()',
      'except nbd.Error as error:',
      '  print(error.errno)',
      'h.opt_abort()',
    ],
  ],
  [
    'requests of every kind',
    ['--discard=unmap'],
    [
      'h.add_meta_context("base:allocation")',
      `h.connect_unix("${socket}")`,
      'h.pwrite(b"abc" * 1000, 12345)',
      'h.pwrite(b"x" * 512, 2097152, nbd.CMD_FLAG_FUA)',
      'print(h.pread(3002, 12344))',
      'h.zero(65536, 65536)',
      'h.zero(65536, 196608, nbd.CMD_FLAG_NO_HOLE)',
      'h.trim(131072, 524288)',
      'h.cache(65536, 0)',
      'h.flush()',
      'found = []',
      'h.block_status(1048576, 0, lambda context, offset, entries, error: found.append((context, offset, entries)))',
      'print(found)',
      // Only now: zeroes that were read count as data, as far as the kernel has read ahead.
      'print(h.pread(4096, 65536) == bytes(4096), h.pread(4096, 196608) == bytes(4096))',
      'def piece(buf, offset, status, error):',
      '  print(len(buf), offset, status)',
      'print(len(h.pread_structured(65536, 0, piece, nbd.CMD_FLAG_DF)))',
      'h.shutdown()',
    ],
  ],
  [
    'requests that are refused',
    ['-r'],
    [
      `h.connect_unix("${socket}")`,
      'h.set_strict_mode(0)',
      'def tried(what):',
      '  try:',
      '    what()',
      '    print("taken")',
      '  except nbd.Error as error:',
      '    print("refused")',
      'tried(lambda: h.pwrite(b"abc", 0))',
      'tried(lambda: h.zero(512, 0))',
      'tried(lambda: h.trim(512, 0))',
      'tried(lambda: h.pread(512, 1 << 40))',
      'tried(lambda: h.pread(512, h.get_size() - 511))',
      'tried(lambda: h.block_status(512, 0, lambda *_: 0))',
      'print(h.pread(4, 0))',
    ],
  ],
  [
    'many requests at a time, answered in any order',
    [],
    [
      `h.connect_unix("${socket}")`,
      'data = os.urandom(0) + bytes(range(256)) * 256',
      'cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), i * 65536) for i in range(40)]',
      'while h.aio_in_flight() > 0:',
      '  h.poll(-1)',
      '  cookies = [cookie for cookie in cookies if not h.aio_command_completed(cookie)]',
      'print(len(cookies))',
      'buffers = [nbd.Buffer(65536) for i in range(40)]',
      'cookies = [h.aio_pread(buffer, i * 65536) for i, buffer in enumerate(buffers)]',
      'while h.aio_in_flight() > 0:',
      '  h.poll(-1)',
      '  cookies = [cookie for cookie in cookies if not h.aio_command_completed(cookie)]',
      'print(len(cookies), all(buffer.to_bytearray() == data for buffer in buffers))',
    ],
  ],
]

describe('our server', () => {
  test.each(scripts)(
    'nbdsh: %s',
    async (_, options, script) => {
      const outputs: string[] = []
      for (const program of [ourTool, 'qemu-nbd']) {
        writeFileSync(join(folder, 'a.raw'), pattern(4 * MiB))
        await using _served = await serve(program, ...options, '-f', 'raw', 'a.raw')
        outputs.push(await nbdsh(...script))
      }
      expect(outputs[0]).toBe(outputs[1])
      expect(outputs[0]?.length).toBeGreaterThan(5)
    },
    30_000,
  )

  test('nbd-client lists its exports', async () => {
    writeFileSync(join(folder, 'a.raw'), pattern(MiB))
    const outputs: string[] = []
    for (const program of [ourTool, 'qemu-nbd']) {
      // A port that is free now.
      const listener = createServer().listen(0, '127.0.0.1')
      await new Promise((resolve) => listener.once('listening', resolve))
      const { port } = listener.address() as { port: number }
      await new Promise((resolve) => listener.close(resolve))
      const args = ['-t', '-b', '127.0.0.1', '-p', String(port), '-x', 'disk', '-f', 'raw', 'a.raw']
      await using _served = await Served.start(program, args, undefined, folder)
      for (let tries = 0; ; tries++) {
        const { code, stdout } = await finish('nbd-client', ['-l', '127.0.0.1', String(port)], folder)
        if (code === 0 || tries === 200) {
          outputs.push(stdout)
          break
        }
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
    }
    expect(outputs[0]).toContain('disk')
    expect(outputs[0]).toBe(outputs[1])
  }, 30_000)

  test.each([
    ['copy on write', ['--filter=cow']],
    ['a cache with write-back', ['--filter=cache', 'cache=writeback']],
    ['read-ahead and small blocks', ['--filter=readahead', '--filter=blocksize', 'maxdata=64k']],
    ['requests cut to sectors', ['--filter=blocksize', 'minblock=4096']],
    ['no zero requests, no extents', ['--filter=nozero', '--filter=noextents']],
    ['one request at a time', ['--filter=noparallel', '--filter=fua', 'fuamode=emulate']],
  ])(
    'nbdkit in between: %s',
    async (_, filters) => {
      const data = pattern(4 * MiB)
      writeFileSync(join(folder, 'a.raw'), data)
      await using _served = await serve(ourTool, '-e', '4', '-f', 'raw', 'a.raw')
      await using _proxy = await nbdkit(
        ...filters.filter((word) => word.startsWith('--')),
        'nbd',
        `socket=${socket}`,
        'shared=true',
        ...filters.filter((word) => !word.startsWith('--')),
      )
      const uri = `nbd+unix:///?socket=${second}`
      expect(await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', uri, 'a.raw')).toContain('identical')
      const commands = [
        'write -P 5 1000 70000',
        'write -z 512k 128k',
        'discard 1M 64k',
        'flush',
        'read -P 5 1000 70000',
        'read -P 0 512k 128k',
      ]
      await run('qemu-io', '-f', 'raw', ...commands.flatMap((line) => ['-c', line]), uri)
      const written = data.slice()
      if (!filters.includes('--filter=cow')) {
        written.fill(5, 1000, 71_000)
        written.fill(0, 512 << 10, 640 << 10)
      }
      // What a discard leaves is anybody's guess.
      const now = readFileSync(join(folder, 'a.raw'))
      expect(Buffer.compare(now.subarray(0, MiB), written.subarray(0, MiB))).toBe(0)
      expect(Buffer.compare(now.subarray(MiB + 65_536), written.subarray(MiB + 65_536))).toBe(0)
    },
    30_000,
  )
})

describe('our client', () => {
  test.each([
    ['slow replies, out of order', ['--filter=delay', 'file', 'FILE', 'delay-read=2ms']],
    [
      'blocks of 4 KiB and no others',
      ['--filter=blocksize-policy', 'file', 'FILE', 'blocksize-minimum=4096', 'blocksize-error-policy=error'],
    ],
    ['a file that is no whole number of sectors', ['--filter=truncate', 'file', 'FILE', 'round-up=4096']],
    ['a part of the file', ['--filter=offset', 'file', 'FILE', 'offset=0', 'range=4M']],
    ['no extents, no zero requests', ['--filter=noextents', '--filter=nozero', 'file', 'FILE']],
    ['gzip', ['--filter=gzip', 'file', 'FILE.gz']],
    ['extents that are remembered', ['--filter=cacheextents', 'file', 'FILE']],
  ])(
    'reads what nbdkit serves: %s',
    async (_, args) => {
      const data = pattern(4 * MiB)
      data.fill(0, MiB, 2 * MiB)
      writeFileSync(join(folder, 'b.raw'), data)
      execFileSync('gzip', ['-fk', 'b.raw'], { cwd: folder })
      await using _server = await nbdkit('-r', ...args.map((word) => word.replace('FILE', 'b.raw')))
      const uri = `nbd+unix:///?socket=${second}`
      expect(await run(ourImg, 'compare', '-f', 'raw', '-F', 'raw', uri, 'b.raw')).toContain('identical')
      expect(await run(ourImg, 'map', '--output=json', '-f', 'raw', uri)).toBe(
        await run('qemu-img', 'map', '--output=json', '-f', 'raw', uri),
      )
      expect(await run(ourImg, 'info', '-f', 'raw', uri)).toBe(
        await run('qemu-img', 'info', '-f', 'raw', uri),
      )
    },
    30_000,
  )

  test('reads and writes what nbd-server serves', async () => {
    const data = pattern(4 * MiB)
    writeFileSync(join(folder, 'b.raw'), data)
    const place = `unixsock = ${second}\n allowlist = true\n pidfile = ${folder}/pid\n`
    const disk = `exportname = ${folder}/b.raw\n flush = true\n fua = true\n trim = true\n`
    const exports = `[disk]\n ${disk}[fixed]\n ${disk} readonly = true\n`
    writeFileSync(join(folder, 'nbd-server.conf'), `[generic]\n ${place}${exports}`)
    rmSync(second, { force: true })
    const pid = join(folder, 'pid')
    await run('nbd-server', '-C', join(folder, 'nbd-server.conf'), '-p', pid)
    // It goes to the background before it is ready.
    await vi.waitUntil(() => existsSync(pid) && isListening(second), { timeout: 5000 })
    try {
      const uri = (name: string) => `nbd+unix:///${name}?socket=${second}`
      const io = join(root, 'bin/blockgraph-io')
      const info = await finish(ourImg, ['info', '-f', 'raw', uri('disk')], folder)
      expect(info).toEqual(await finish('qemu-img', ['info', '-f', 'raw', uri('disk')], folder))
      const script = [
        'write -P 5 1000 70000',
        'write -f -P 6 1M 1M',
        'discard 3M 64k',
        'flush',
        'read -P 5 1000 70000',
      ]
      await run(io, '-f', 'raw', ...script.flatMap((line) => ['-c', line]), uri('disk'))
      data.fill(5, 1000, 71_000)
      data.fill(6, MiB, 2 * MiB)
      const now = readFileSync(join(folder, 'b.raw'))
      expect(Buffer.compare(now.subarray(0, 3 * MiB), data.subarray(0, 3 * MiB))).toBe(0)
      expect(await run(ourImg, 'compare', '-f', 'raw', '-F', 'raw', uri('fixed'), 'b.raw')).toContain(
        'identical',
      )
      const refused = await finish(io, ['-f', 'raw', '-c', 'write 0 512', uri('fixed')], folder)
      const theirs = await finish('qemu-io', ['-f', 'raw', '-c', 'write 0 512', uri('fixed')], folder)
      expect({ ...refused, stderr: refused.stderr.replaceAll('blockgraph-io', 'qemu-io') }).toEqual(theirs)
    } finally {
      process.kill(Number(readFileSync(pid, 'utf8')), 'SIGTERM')
    }
  }, 30_000)

  test('gets the errors that a server makes, and goes on', async () => {
    writeFileSync(join(folder, 'b.raw'), pattern(MiB))
    await using _server = await nbdkit(
      ...['--filter=error', 'file', 'b.raw', 'error=ENOSPC', 'error-pwrite-rate=100%'],
    )
    await using image = await openImage(
      { driver: 'raw', file: { driver: 'nbd', server: { type: 'unix', path: second } } },
      { readOnly: false },
    )
    await expect(image.write(0, new Uint8Array(512))).rejects.toMatchObject({ code: 'ENOSPC' })
    const sector = new Uint8Array(512)
    await image.read(0, sector)
    expect(sector).toEqual(pattern(512))
  })

  test('a disk that nbdkit decrypts is the one that we decrypt', async () => {
    const secret = 'secret,id=s,data=letmein'
    const options = ['-f', 'luks', '-o', 'key-secret=s,iter-time=10']
    await run(ourImg, 'create', '-q', '--object', secret, ...options, 'c.luks', '2M')
    writeFileSync(join(folder, 'plain.raw'), pattern(2 * MiB))
    await run(
      ...([
        ourImg,
        'convert',
        '-n',
        '--object',
        secret,
        '--target-image-opts',
        '-f',
        'raw',
        'plain.raw',
      ] as const),
      'driver=luks,key-secret=s,file.filename=c.luks',
    )
    await using _server = await nbdkit('-r', '--filter=luks', 'file', 'c.luks', 'passphrase=letmein')
    const uri = `nbd+unix:///?socket=${second}`
    expect(await run(ourImg, 'compare', '-f', 'raw', '-F', 'raw', uri, 'plain.raw')).toContain('identical')
  }, 30_000)
})
