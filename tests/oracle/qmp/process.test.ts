import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { connectQmp, type QmpClient } from '../../../src/index.js'

/** The daemon as a process; it needs the build (scripts/build.mjs). */
const tool = fileURLToPath(new URL('../../../bin/blockgraph-storage-daemon', import.meta.url))

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'qmp-process-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (let i = 0; !(await condition()); i++) {
    if (i > 800) {
      throw new Error(`no ${what}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

async function connected(path: string): Promise<QmpClient> {
  let client: QmpClient | undefined
  await until(async () => {
    client = await connectQmp(path).catch(() => undefined)
    return client !== undefined
  }, 'monitor')
  return client as QmpClient
}

function start(dir: string, args: readonly string[]) {
  const child = spawn(
    tool,
    [...args, '--chardev', `socket,id=c,path=${dir}/qmp.sock,server=on,wait=off`, '--monitor', 'c'],
    { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] },
  )
  const ended = new Promise<[number | null, string | null]>((resolve) =>
    child.once('exit', (code, signal) => resolve([code, signal])),
  )
  return { child, ended }
}

test.each(['SIGTERM', 'SIGINT', 'SIGHUP', 'quit'] as const)(
  'ends well by %s, and the PID file goes',
  async (how) => {
    const dir = mkdtempSync(join(folder, 'end-'))
    const pidFile = join(dir, 'pid')
    const { child, ended } = start(dir, ['--pidfile', pidFile])
    await until(() => existsSync(pidFile), 'PID file')
    await using client = await connected(join(dir, 'qmp.sock'))
    expect(readFileSync(pidFile, 'latin1')).toBe(`${child.pid}\n`)
    if (how === 'quit') {
      await client.commands.quit()
    } else {
      child.kill(how)
    }
    expect(await ended).toEqual([0, null])
    expect(existsSync(pidFile)).toBe(false)
  },
)

test('--daemonize returns when everything works, and says what does not', async () => {
  const dir = mkdtempSync(join(folder, 'background-'))
  const monitor = ['--chardev', `socket,id=c,path=${dir}/qmp.sock,server=on,wait=off`, '--monitor', 'c']
  execFileSync(tool, ['--daemonize', '--pidfile', join(dir, 'pid'), ...monitor], { stdio: 'ignore' })
  const pid = Number(readFileSync(join(dir, 'pid'), 'latin1'))
  expect(pid).not.toBe(process.pid)
  await using client = await connectQmp(join(dir, 'qmp.sock'))
  expect(await client.commands.queryNamedBlockNodes()).toEqual([])
  await client.commands.quit()
  await until(() => !existsSync(join(dir, 'pid')), 'end')
  const failing = ['--daemonize', '--blockdev', 'file,node-name=a,filename=/nonexist']
  expect(() => execFileSync(tool, failing, { stdio: 'pipe' })).toThrow(
    "blockgraph-storage-daemon: --blockdev file,node-name=a,filename=/nonexist: Could not open '/nonexist'",
  )
})

test('--monitor on standard input and output, with indentation', () => {
  const output = execFileSync(tool, ['--chardev', 'stdio,id=c', '--monitor', 'c,pretty=on'], {
    input: '{"execute":"qmp_capabilities"}{"execute":"query-jobs"}{"execute":"quit"}',
    encoding: 'utf8',
  })
  const theirs = execFileSync(
    'qemu-storage-daemon',
    ['--chardev', 'stdio,id=c', '--monitor', 'c,pretty=on'],
    {
      input: '{"execute":"qmp_capabilities"}{"execute":"query-jobs"}{"execute":"quit"}',
      encoding: 'utf8',
    },
  )
  expect(output.replace(/"package": "[^"]*"/, '')).toBe(theirs.replace(/"package": "[^"]*"/, ''))
})

test('figures for Prometheus', async () => {
  const dir = mkdtempSync(join(folder, 'metrics-'))
  const port = 20_000 + (process.pid % 20_000)
  const { child, ended } = start(dir, [
    ...['--metrics', `127.0.0.1:${port}`, '--blockdev', 'null-co,node-name=disk,size=1048576,read-zeroes=on'],
    ...['--nbd-server', `addr.type=unix,addr.path=${dir}/nbd.sock`],
    ...['--export', 'nbd,id=e,node-name=disk,name=x,writable=on'],
  ])
  await using client = await connected(join(dir, 'qmp.sock'))
  const uri = `nbd+unix:///x?socket=${dir}/nbd.sock`
  execFileSync('qemu-io', ['-f', 'raw', '-c', 'read 0 16k', '-c', 'write 0 128k', uri], { stdio: 'pipe' })
  const response = await fetch(`http://127.0.0.1:${port}/metrics`)
  expect(response.status).toBe(200)
  expect(response.headers.get('content-type')).toContain('version=0.0.4')
  const lines = (await response.text()).split('\n')
  expect(lines).toContain('blockgraph_node_bytes{node="disk",driver="null-co",read_only="false"} 1048576')
  expect(lines).toContain('blockgraph_export{id="e",type="nbd",node="disk"} 1')
  expect(lines).toContain('blockgraph_export_operations_total{export="e",operation="read"} 1')
  expect(lines).toContain('blockgraph_export_bytes_total{export="e",operation="write"} 131072')
  expect(lines).toContain('blockgraph_export_latency_seconds_count{export="e",operation="read"} 1')
  expect(lines.every((line) => /^(?:#.*|[a-z_]+(?:\{[^}]*\})? \S+|)$/.test(line))).toBe(true)
  expect((await fetch(`http://127.0.0.1:${port}/other`)).status).toBe(404)
  await client.commands.quit()
  await ended
  expect(() => execFileSync(tool, ['--metrics', '0.0.0.0:0'], { stdio: 'pipe' })).toThrow(
    'only shown on this machine',
  )
  child.unref()
})

/** What was flushed before the daemon was killed is there, and the image is sound: at worst there are leaks. */
test('kill -9 in the middle of writes and jobs', async () => {
  const rounds = process.env.BLOCKGRAPH_FULL_MATRIX === undefined ? 3 : 200
  for (let round = 0; round < rounds; round++) {
    const dir = mkdtempSync(join(folder, 'kill-'))
    const [disk, target] = [join(dir, 'disk.qcow2'), join(dir, 'target.qcow2')]
    for (const image of [disk, target]) {
      execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', image, '64M'])
    }
    const { child, ended } = start(dir, [
      ...['--blockdev', `qcow2,node-name=disk,file.driver=file,file.filename=${disk}`],
      ...['--blockdev', `qcow2,node-name=target,file.driver=file,file.filename=${target}`],
      ...['--nbd-server', `addr.type=unix,addr.path=${dir}/nbd.sock`],
      ...['--export', 'nbd,id=e,node-name=disk,name=x,writable=on'],
    ])
    const client = await connected(join(dir, 'qmp.sock'))
    const uri = `nbd+unix:///x?socket=${dir}/nbd.sock`
    execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 4M', '-c', 'flush', uri], { stdio: 'pipe' })
    await client.commands.blockdevMirror({ 'job-id': 'm', device: 'disk', target: 'target', sync: 'full' })
    const writer = spawn(
      'qemu-io',
      ['-f', 'raw', ...Array.from({ length: 40 }, (_, i) => ['-c', `write -P 2 ${4 + i}M 1M`]).flat(), uri],
      {
        stdio: 'ignore',
      },
    )
    const gone = new Promise((resolve) => writer.once('exit', resolve))
    await new Promise((resolve) => setTimeout(resolve, (round * 37) % 150))
    child.kill('SIGKILL')
    await ended
    writer.kill('SIGKILL')
    await gone
    client.close()
    // Leaks are code 3.
    for (const image of [disk, target]) {
      const check = spawn('qemu-img', ['check', '-q', '-f', 'qcow2', image], { stdio: 'ignore' })
      const code = await new Promise((resolve) => check.once('exit', resolve))
      expect([0, 3]).toContain(code)
    }
    execFileSync('qemu-io', ['-r', '-f', 'qcow2', '-c', 'read -P 1 0 4M', disk], { stdio: 'pipe' })
    rmSync(dir, { recursive: true, force: true })
  }
}, 600_000)
