import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { finish, ourTool, Served } from './servers.js'

// TLS with certificates and with shared keys, between our programs and QEMU's.

const ourImg = fileURLToPath(new URL('../../../bin/blockgraph-img', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'nbd-tls-'))
const socket = join(folder, 's')
const MiB = 1 << 20

function openssl(...args: string[]): void {
  execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' })
}

/** A certificate of `name` signed by the authority in `ca`. */
function certificate(ca: string, dir: string, side: 'server' | 'client', name: string): void {
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  openssl('req', ...key, '-keyout', `${dir}/${side}-key.pem`, '-out', 'r.csr', '-subj', `/CN=${name}`)
  const usage = side === 'server' ? 'serverAuth' : 'clientAuth'
  writeFileSync(
    join(folder, 'ext'),
    `subjectAltName=DNS:${name},IP:127.0.0.1\nextendedKeyUsage=${usage}\nkeyUsage=digitalSignature\nbasicConstraints=CA:FALSE\n`,
  )
  const signed = ['-CA', `${ca}/ca-cert.pem`, '-CAkey', `${ca}.key`, '-CAcreateserial', '-days', '30']
  openssl('x509', '-req', '-in', 'r.csr', ...signed, '-extfile', 'ext', '-out', `${dir}/${side}-cert.pem`)
}

function authority(name: string): void {
  mkdirSync(join(folder, name))
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  const extensions = ['-addext', 'keyUsage=critical,keyCertSign,cRLSign']
  const subject = ['-subj', `/CN=${name}`, '-days', '30']
  openssl(
    'req',
    '-x509',
    ...key,
    '-keyout',
    `${name}.key`,
    '-out',
    `${name}/ca-cert.pem`,
    ...subject,
    ...extensions,
  )
}

beforeAll(() => {
  writeFileSync(join(folder, 'a.raw'), new Uint8Array(MiB).fill(7))
  authority('good')
  certificate('good', 'good', 'server', 'localhost')
  certificate('good', 'good', 'client', 'somebody')
  authority('bad')
  certificate('bad', 'bad', 'client', 'somebody')
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
