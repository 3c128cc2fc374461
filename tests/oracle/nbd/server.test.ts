import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { finish, ourTool, Served } from './servers.js'

// blockgraph-nbd as a process, used by the clients of QEMU, libnbd and fio, and beside qemu-nbd.

const root = fileURLToPath(new URL('../../..', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'nbd-server-'))
const socket = join(folder, 's')
const uri = `nbd+unix:///?socket=${socket}`
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
  return Uint8Array.from({ length: bytes }, (_, i) => (i * 7 + (i >> 9)) & 255)
}

function start(program: string, ...args: string[]): Promise<Served> {
  rmSync(socket, { force: true })
  return Served.start(program, ['-k', socket, ...args], socket, folder)
}

async function run(program: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await finish(program, args, folder)
  expect(code, `${program} ${args.join(' ')}: ${stderr}`).toBe(0)
  return stdout
}

/** What `check` finds out of our server and of qemu-nbd, started alike. */
async function both<T>(args: readonly string[], check: () => Promise<T>): Promise<{ ours: T; theirs: T }> {
  const results: T[] = []
  for (const program of [ourTool, 'qemu-nbd']) {
    await using _served = await start(program, ...args)
    results.push(await check())
  }
  return { ours: results[0] as T, theirs: results[1] as T }
}

describe('what clients are told', () => {
  test.each<[string, readonly string[]]>([
    ['writable, one client', ['-t']],
    ['several clients', ['-t', '-e', '5']],
    ['read-only', ['-t', '-r']],
    ['a name and a description', ['-t', '-x', 'disk', '-D', 'a disk for tests']],
    ['a part of the image', ['-t', '-o', '65536']],
    ['the allocation depth', ['-t', '-A']],
  ])('%s', async (_name, args) => {
    writeFileSync(join(folder, 'a.raw'), pattern(MiB))
    const { ours, theirs } = await both([...args, '-f', 'raw', 'a.raw'], async () => [
      await run('qemu-nbd', '-L', '-k', socket),
      await run('nbdinfo', '--list', '--json', uri),
    ])
    expect(ours).toEqual(theirs)
  })

  test('block status of a chain, its depth and its bitmaps', async () => {
    await run('qemu-img', 'create', '-q', '-f', 'qcow2', 'base.qcow2', '4M')
    await run('qemu-io', '-c', 'write 0 1M', '-c', 'write -z 2M 64k', 'base.qcow2')
    await run('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', 'base.qcow2', 'top.qcow2')
    await run('qemu-img', 'bitmap', '--add', 'top.qcow2', 'b0')
    await run('qemu-io', '-c', 'write 512k 64k', '-c', 'write 3M 128k', 'top.qcow2')
    await run('qemu-img', 'bitmap', '--disable', 'top.qcow2', 'b0')
    for (const args of [
      ['-t', '-r', '-A', '-B', 'b0'],
      ['-t', '-A', '-B', 'b0'],
    ]) {
      const { ours, theirs } = await both([...args, '-f', 'qcow2', 'top.qcow2'], async () => [
        await run('nbdinfo', '--map', uri),
        await run('nbdinfo', '--map=qemu:allocation-depth', uri),
        await run('nbdinfo', '--map=qemu:dirty-bitmap:b0', uri),
        await run('nbdinfo', '--list', '--json', uri),
        await run('qemu-img', 'map', '--output=json', '-f', 'raw', uri),
      ])
      expect(ours).toEqual(theirs)
    }
  })
})

describe('data', () => {
  test('survives nbdcopy in both directions, qemu-io and qemu-img compare', async () => {
    const data = pattern(5 * MiB + 512)
    writeFileSync(join(folder, 'from.raw'), data)
    writeFileSync(join(folder, 'a.raw'), new Uint8Array(data.length))
    await using served = await start(ourTool, '-t', '-e', '0', '--discard=unmap', '-f', 'raw', 'a.raw')
    await run('nbdcopy', 'from.raw', uri)
    expect(Buffer.compare(readFileSync(join(folder, 'a.raw')), data)).toBe(0)
    await run('nbdcopy', uri, 'to.raw')
    expect(Buffer.compare(readFileSync(join(folder, 'to.raw')), data)).toBe(0)
    expect(await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', uri, 'from.raw')).toBe(
      'Images are identical.\n',
    )
    const script = [
      'write -P 5 1000 5000',
      'read -P 5 1000 5000',
      'write -z 4k 64k',
      'read -P 0 4k 64k',
      'write -zu 128k 64k',
      'write -f -P 7 2M 3M',
      'read -P 7 2M 3M',
      'discard 3M 1M',
      'flush',
    ]
    const output = await run('qemu-io', '-f', 'raw', ...script.flatMap((line) => ['-c', line]), uri)
    expect(output).not.toContain('failed')
    expect(served.stderr).toBe('')
  })

  test('is verified by fio with sixteen requests at a time, raw and qcow2', async () => {
    writeFileSync(join(folder, 'a.raw'), new Uint8Array(4 * MiB))
    await run('qemu-img', 'create', '-q', '-f', 'qcow2', 'a.qcow2', '4M')
    for (const image of [
      ['-f', 'raw', 'a.raw'],
      ['-f', 'qcow2', 'a.qcow2'],
    ]) {
      await using served = await start(ourTool, '-t', ...image)
      const fio = ['--name=v', '--ioengine=nbd', `--uri=${uri}`, '--size=4M', '--iodepth=16']
      const output = await run(
        'fio',
        ...fio,
        '--rw=randwrite',
        '--bsrange=512-64k',
        '--verify=crc32c',
        '--verify_fatal=1',
        '--verify_state_save=0',
      )
      expect(output).toContain('err= 0')
      expect(served.stderr).toBe('')
    }
    expect(await run('qemu-img', 'check', 'a.qcow2')).toContain('No errors')
  }, 30_000)

  test('a snapshot of the image is shown, and a temporary overlay takes writes', async () => {
    await run('qemu-img', 'create', '-q', '-f', 'qcow2', 'a.qcow2', '1M')
    await run('qemu-io', '-c', 'write -P 1 0 64k', 'a.qcow2')
    await run('qemu-img', 'snapshot', '-c', 'one', 'a.qcow2')
    await run('qemu-io', '-c', 'write -P 2 0 64k', 'a.qcow2')
    {
      await using _served = await start(ourTool, '-t', '-l', 'one', '-f', 'qcow2', 'a.qcow2')
      await run('qemu-io', '-r', '-f', 'raw', '-c', 'read -P 1 0 64k', uri)
    }
    {
      await using _served = await start(ourTool, '-t', '-s', '-f', 'qcow2', 'a.qcow2')
      await run('qemu-io', '-f', 'raw', '-c', 'write -P 3 0 64k', '-c', 'read -P 3 0 64k', uri)
    }
    expect(await run('qemu-io', '-r', '-c', 'read -P 2 0 64k', 'a.qcow2')).not.toContain('failed')
  })
})

describe('the process', () => {
  test('disconnects whatever it can open', async () => {
    for (const program of [ourTool, 'qemu-nbd']) {
      expect(await finish(program, ['-d', '/dev/null'])).toEqual({
        code: 0,
        stdout: '/dev/null disconnected\n',
        stderr: '',
      })
    }
  })

  test('ends with its last client, and takes its socket away', async () => {
    writeFileSync(join(folder, 'a.raw'), pattern(MiB))
    await using served = await start(ourTool, '-f', 'raw', 'a.raw')
    await run('nbdinfo', '--size', uri)
    expect(await served.ended).toBe(0)
    expect(existsSync(socket)).toBe(false)
  })

  test('goes to the background, writes its number, ends by a signal with code 0', async () => {
    writeFileSync(join(folder, 'a.raw'), pattern(MiB))
    rmSync(socket, { force: true })
    const args = ['--fork', '--pid-file=pid', '-t', '-k', socket, '-f', 'raw', 'a.raw']
    // It keeps standard error open, as qemu-nbd does.
    expect(spawnSync(ourTool, args, { cwd: folder, stdio: 'ignore' }).status).toBe(0)
    expect(await run('nbdinfo', '--size', uri)).toBe(`${MiB}\n`)
    process.kill(Number(readFileSync(join(folder, 'pid'), 'utf8')), 'SIGTERM')
    for (let i = 0; i < 200 && existsSync(socket); i++) {
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    expect(existsSync(socket)).toBe(false)
    const refused = await finish(ourTool, ['--fork', '-k', socket, '-f', 'raw', 'gone'], folder)
    expect(refused.code).toBe(1)
    expect(refused.stderr).toContain("Failed to blk_new_open 'gone': Could not open 'gone'")
    await using served = await start(ourTool, '-t', '-f', 'raw', 'a.raw')
    served.child.kill('SIGINT')
    expect(await served.ended).toBe(0)
  })

  test('listens on TCP', async () => {
    writeFileSync(join(folder, 'a.raw'), pattern(MiB))
    const port = 20000 + (process.pid % 20000)
    await using _served = await Served.start(
      ourTool,
      ['-t', '-b', '127.0.0.1', '-p', String(port), '-f', 'raw', 'a.raw'],
      undefined,
      folder,
    )
    let listed = await finish('qemu-nbd', ['-L', '-b', '127.0.0.1', '-p', String(port)])
    for (let i = 0; i < 100 && listed.code !== 0; i++) {
      await new Promise((resolve) => setTimeout(resolve, 50))
      listed = await finish('qemu-nbd', ['-L', '-b', '127.0.0.1', '-p', String(port)])
    }
    expect(listed.stdout).toContain('size:  1048576')
    await run('nbdcopy', `nbd://127.0.0.1:${port}`, 'to.raw')
    expect(Buffer.compare(readFileSync(join(folder, 'to.raw')), pattern(MiB))).toBe(0)
    const again = ['-b', '127.0.0.1', '-p', String(port), '-f', 'raw', 'a.raw']
    const theirs = await finish('qemu-nbd', again, folder)
    expect(await finish(ourTool, again, folder)).toEqual({
      ...theirs,
      stderr: theirs.stderr.replaceAll('qemu-nbd', 'blockgraph-nbd'),
    })
  })

  test('takes over a listening socket', async () => {
    writeFileSync(join(folder, 'a.raw'), pattern(MiB))
    const listener = createServer()
    await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve))
    const { port } = listener.address() as AddressInfo
    const { fd } = (listener as unknown as { _handle: { fd: number } })._handle
    const shell = `LISTEN_PID=$$ LISTEN_FDS=1 exec ${ourTool} -f raw a.raw`
    const child = spawn('sh', ['-c', shell], { cwd: folder, stdio: ['ignore', 'ignore', 'pipe', fd] })
    const ended = new Promise((resolve) => child.once('exit', resolve))
    // The socket goes on in the other process.
    listener.close()
    expect(await run('nbdinfo', '--size', `nbd://127.0.0.1:${port}`)).toBe(`${MiB}\n`)
    expect(await ended).toBe(0)
    for (const args of [['-k', socket], ['-b', 'x'], ['-p', '1'], ['-L']]) {
      const results = await Promise.all(
        [ourTool, 'qemu-nbd'].map((program) => {
          const words = [program, ...args, ...(args[0] === '-L' ? [] : ['a.raw'])].join(' ')
          return finish('sh', ['-c', `LISTEN_PID=$$ LISTEN_FDS=1 exec ${words} 3</dev/null`], folder)
        }),
      )
      expect(results[0]?.stderr.replace('blockgraph-nbd', 'qemu-nbd')).toBe(results[1]?.stderr)
    }
  })

  test('is not held up, nor filled, by a client that takes no replies', async () => {
    writeFileSync(join(folder, 'a.raw'), pattern(4 * MiB))
    await using served = await start(ourTool, '-t', '-e', '0', '-f', 'raw', 'a.raw')
    const greedy = Array.from({ length: 8 }, () => {
      const client = connect(socket)
      // The old way: an export name, then two thousand reads of 4 MiB.
      const hello = Buffer.from('0000000349484156454f50540000000100000000', 'hex')
      const read = Buffer.from(`25609513${'0000'.repeat(10)}00400000`, 'hex')
      client.on('error', () => undefined)
      client.pause()
      client.write(Buffer.concat([hello, ...Array.from({ length: 2000 }, () => read)]))
      return client
    })
    await new Promise((resolve) => setTimeout(resolve, 500))
    await run('nbdcopy', uri, 'to.raw')
    expect(Buffer.compare(readFileSync(join(folder, 'to.raw')), pattern(4 * MiB))).toBe(0)
    const status = readFileSync(`/proc/${served.child.pid}/status`, 'utf8')
    expect(Number(/VmRSS:\s+(\d+)/.exec(status)?.[1])).toBeLessThan(256 * 1024)
    for (const client of greedy) {
      client.destroy()
    }
    await run('nbdinfo', '--size', uri)
  })

  const refused: readonly string[] = [
    '',
    'x y',
    '--foo',
    '-f raw nosuch',
    '-e -1 a',
    '-e 1k a',
    '-o x a',
    '-o 2M a',
    '-o 3000000 -k SOCKET -f raw a.raw',
    '--cache=foo a',
    '-n -n a',
    '--aio=x a',
    '--discard=y a',
    '--discard=ignore --discard=ignore a',
    '--detect-zeroes=y a',
    '--detect-zeroes=unmap a',
    '-k s a',
    '-B foo -k SOCKET -f raw a.raw',
    '-l foo -k SOCKET -f raw a.raw',
    '-l snapshot.foo=1 -k SOCKET -f raw a.raw',
    '-L foo',
    '-L -f raw',
    '-L --fork',
    '--tls-authz=foo a.raw',
    '--tls-hostname=foo a.raw',
    '--selinux-label=x a.raw',
    '--image-opts -f raw -k SOCKET a',
    '--image-opts -k SOCKET driver=raw,file.filename=nosuch',
    '-f nosuch -k SOCKET a.raw',
    '--pid-file=/nonexistent/p -k SOCKET -f raw a.raw',
    '-k /nonexistent/x -f raw a.raw',
    `-k /tmp/${'x'.repeat(120)} -f raw a.raw`,
    '-b 192.0.2.1 -p 10999 -f raw a.raw',
    '-p abc -f raw a.raw',
    '--object foo,id=x a.raw',
    '-d /dev/no-such-device',
    '-d /dev',
    '-c /dev/nbd0 -d',
    '-c /dev/nbd0 -L',
    '-d /dev/nbd0 a.raw',
    '-c /dev/no-such-device -f raw a.raw',
    '-c /dev/no-such-device -v -f raw a.raw',
    '-c /dev/no-such-device -k SOCKET -f raw a.raw',
    '-c /dev/null -f raw a.raw',
    '-c /dev/null -f raw missing.raw',
    '-c /dev/null -x name -f raw a.raw',
    '-c /dev/null --tls-creds t a.raw',
  ]
  test('refuses what qemu-nbd refuses, in its words', async () => {
    writeFileSync(join(folder, 'a.raw'), pattern(MiB))
    for (const line of refused) {
      const args = line.split(' ').flatMap((word) => (word === '' ? [] : [word.replace('SOCKET', socket)]))
      const theirs = await finish('qemu-nbd', args, folder)
      const ours = await finish(ourTool, args, folder)
      expect({ line, ...ours }).toEqual({
        line,
        ...theirs,
        stderr: theirs.stderr.replaceAll('qemu-nbd', 'blockgraph-nbd'),
      })
      expect(theirs.code).toBe(1)
    }
  }, 60_000)
})
