import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Authority } from './certificates.js'
import { finish, ourTool, Served } from './servers.js'

// TLS with certificates and with shared keys, between our programs and QEMU's.

const ourImg = fileURLToPath(new URL('../../../bin/blockgraph-img', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'nbd-tls-'))
const socket = join(folder, 's')
const MiB = 1 << 20

beforeAll(() => {
  writeFileSync(join(folder, 'a.raw'), new Uint8Array(MiB).fill(7))
  const good = new Authority(folder, 'good')
  good.sign('server', '/CN=localhost')
  good.sign('client', '/CN=somebody')
  new Authority(folder, 'bad').sign('client', '/CN=somebody')
  mkdirSync(join(folder, 'psk'))
  writeFileSync(join(folder, 'psk/keys.psk'), `qemu:${'ab'.repeat(32)}\nother:${'cd'.repeat(32)}\n`)
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

function serve(program: string, object: string): Promise<Served> {
  rmSync(socket, { force: true })
  const tls = ['--object', object, '--tls-creds', 't']
  return Served.start(program, ['-t', '-k', socket, ...tls, '-f', 'raw', 'a.raw'], socket, folder)
}

function read(program: string, object: string | undefined, hostname = 'localhost') {
  const tls = object === undefined ? '' : `,file.tls-creds=t,file.tls-hostname=${hostname}`
  const image = `driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=${socket}${tls}`
  const objects = object === undefined ? [] : ['--object', object]
  return finish(program, ['convert', ...objects, '--image-opts', '-O', 'raw', image, 'out.raw'], folder)
}

const pairs = [
  [ourTool, 'qemu-img'],
  ['qemu-nbd', ourImg],
  [ourTool, ourImg],
] as const

test('certificates: who has one is served, others are not', async () => {
  for (const [server, client] of pairs) {
    await using served = await serve(server, 'tls-creds-x509,id=t,dir=good,endpoint=server')
    const label = `${server} ${client}`
    const good = 'tls-creds-x509,id=t,dir=good,endpoint=client'
    expect(await read(client, good), label).toEqual({ code: 0, stdout: '', stderr: '' })
    execFileSync('cmp', ['a.raw', 'out.raw'], { cwd: folder })
    expect((await read(client, good, 'elsewhere')).code, label).toBe(1)
    expect((await read(client, 'tls-creds-x509,id=t,dir=bad,endpoint=client')).code, label).toBe(1)
    const plain = await read(client, undefined)
    expect(plain.code, label).toBe(1)
    expect(plain.stderr).toContain('TLS negotiation required before option')
    expect(plain.stderr).toContain('Did you forget a valid tls-creds?')
    expect(served.child.exitCode).toBe(null)
  }
}, 60_000)

test('shared keys: who knows one is served', async () => {
  for (const [server, client] of pairs) {
    await using _served = await serve(server, `tls-creds-psk,id=t,dir=${folder}/psk,endpoint=server`)
    const label = `${server} ${client}`
    for (const user of ['', ',username=other']) {
      const object = `tls-creds-psk,id=t,dir=psk,endpoint=client${user}`
      expect(await read(client, object), label).toEqual({ code: 0, stdout: '', stderr: '' })
    }
    execFileSync('cmp', ['a.raw', 'out.raw'], { cwd: folder })
  }
}, 60_000)

test("the list is read over TLS, and wrong credentials are refused in QEMU's words", async () => {
  await using _served = await serve('qemu-nbd', 'tls-creds-x509,id=t,dir=good,endpoint=server')
  const object = ['--object', 'tls-creds-x509,id=t,dir=good,endpoint=client']
  const args = ['-L', '-k', socket, ...object, '--tls-creds', 't', '--tls-hostname', 'localhost']
  const theirs = await finish('qemu-nbd', args, folder)
  expect(theirs.code).toBe(0)
  expect(await finish(ourTool, args, folder)).toEqual(theirs)
  for (const line of [
    '--tls-creds t a.raw',
    '--object secret,id=t,data=x --tls-creds t a.raw',
    '--object tls-creds-x509,id=t,dir=good,endpoint=client --tls-creds t a.raw',
    '--object tls-creds-x509,id=t,dir=gone,endpoint=server --tls-creds t a.raw',
    '--object tls-creds-x509,id=t,endpoint=server --tls-creds t a.raw',
    '--object tls-creds-x509,id=t,dir=good,endpoint=both --tls-creds t a.raw',
  ]) {
    const [wanted, got] = await Promise.all(
      ['qemu-nbd', ourTool].map((program) => finish(program, line.split(' '), folder)),
    )
    expect({ line, ...got, stderr: got?.stderr.replaceAll('blockgraph-nbd', 'qemu-nbd') }).toEqual({
      line,
      ...wanted,
    })
  }
})
