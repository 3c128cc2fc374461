import { execFile, execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createLibrary, isBlockError } from '../../../src/index.js'
import { SshServer } from './ssh-server.js'

// The ssh driver on an OpenSSH server, beside QEMU's.

const bin = fileURLToPath(new URL('../../../bin/', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'ssh-'))
const port = 25000 + (process.pid % 5000)
const MiB = 1 << 20
const base = `ssh://127.0.0.1:${port}${folder}`
const blind = '?host_key_check=no'

let server: SshServer

function pattern(bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, i) => (Math.imul(i, 2654435761) >>> 13) & 255)
}

beforeAll(async () => {
  server = await SshServer.start(folder, port)
  process.env.SSH_AUTH_SOCK = server.environment.SSH_AUTH_SOCK
  writeFileSync(join(folder, 'raw'), pattern(3 * MiB + 512))
})

afterAll(async () => {
  await server[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true, force: true })
})

interface Outcome {
  readonly code: number | string
  readonly stdout: string
  readonly stderr: string
}

function run(program: string, args: readonly string[], env: Record<string, string> = {}): Promise<Outcome> {
  const options = { cwd: folder, env: { ...process.env, ...env }, timeout: 15_000 }
  return new Promise((resolve) => {
    execFile(program, args, options, (error, stdout, stderr) => {
      const clean = (text: string): string =>
        text
          .replaceAll(/blockgraph-(img|io): /g, 'qemu-$1: ')
          .replaceAll(/[\d.:]+ sec \([\d.]+ .iB\/sec and [\d.]+ ops\/sec\)/g, '…')
      resolve({ code: error?.code ?? 0, stdout: clean(stdout), stderr: clean(stderr) })
    })
  })
}

async function expectSame(tool: 'img' | 'io', args: readonly string[]): Promise<Outcome> {
  copyFileSync(join(folder, 'raw'), join(folder, 'disk'))
  const theirs = await run(`qemu-${tool}`, args)
  copyFileSync(join(folder, 'raw'), join(folder, 'disk'))
  const ours = await run(join(bin, `blockgraph-${tool}`), args)
  expect(ours, args.join(' ')).toEqual(theirs)
  return ours
}

const place = `driver=ssh,server.host=127.0.0.1,server.port=${port},path=${folder}/disk`

test.each([
  `info ${base}/disk`,
  `info ${base}/disk?host_key_check=yes`,
  `info ${base}/disk${blind}`,
  `info --output=json ${base}/disk${blind}`,
  `info ${base}/disk?host_key_check=foo`,
  `info ${base}/disk?host_key_check=md5:00`,
  `info ${base}/disk?host_key_check=sha1:00:11`,
  `info ${base}/disk?host_key_check=sha256:00`,
  `info ssh://127.0.0.1:1/x${blind}`,
  `info ssh://nosuch@127.0.0.1:${port}/x${blind}`,
  `info ${base}/none${blind}`,
  `info ${base}${blind}`,
  'info ssh://',
  'info ssh://h',
  'info ssh://no-such.invalid/x',
  `info --image-opts driver=ssh,host=127.0.0.1,port=${port},path=${folder}/disk`,
  `info --image-opts driver=ssh,host=127.0.0.1,port=${port},path=${folder}/disk,host_key_check=no`,
  `info --image-opts ${place},host-key-check.mode=none`,
  `info --image-opts ${place},host-key-check.mode=none,user=${userInfo().username}`,
  `info --image-opts ${place},host-key-check.mode=none,foo=x`,
  `info --image-opts ${place},host-key-check.mode=known_hosts`,
  `info --image-opts ${place},host-key-check.mode=hash,host-key-check.type=foo,host-key-check.hash=x`,
  `info --image-opts ${place},host-key-check.mode=hash,host-key-check.type=md5`,
  `info --image-opts ${place},host-key-check.mode=foo`,
  `info --image-opts ${place},server.foo=x`,
  'info --image-opts driver=ssh',
  'info --image-opts driver=ssh,server.host=127.0.0.1',
  'info --image-opts driver=ssh,path=a',
  'info --image-opts driver=ssh,port=1',
  `create -f qcow2 ${base}/new.qcow2${blind} 10M`,
  `check ${base}/new.qcow2${blind}`,
  `create -f raw ${base}/none/new${blind} 10M`,
  `create -f raw -o help ${base}/new${blind}`,
  `resize --shrink -f raw ${base}/disk${blind} 1M`,
  `resize -f raw ${base}/disk${blind} 6M`,
  `convert -O qcow2 disk ${base}/c.qcow2${blind}`,
  `compare disk ${base}/c.qcow2${blind}`,
  `map ${base}/c.qcow2${blind}`,
  `map --output=json -f raw ${base}/disk${blind}`,
])('%s', async (line) => {
  await expectSame('img', line.split(' '))
})

test('qemu-io: reads, writes, flushes', async () => {
  const commands = [
    'read -v 1000 40',
    'write -P 7 5000 2M',
    'read -P 7 5000 2M',
    'flush',
    'map',
    'discard 0 64k',
    'write -z 0 64k',
  ]
  const { code } = await expectSame('io', [
    '-f',
    'raw',
    ...commands.flatMap((one) => ['-c', one]),
    `${base}/disk${blind}`,
  ])
  expect(code).toBe(0)
  const disk = readFileSync(join(folder, 'disk'))
  expect(
    disk
      .subarray(65536, 65536 + 2 * MiB)
      .subarray(0, MiB)
      .every((byte) => byte === 7),
  ).toBe(true)
})

test('both tools read what the other one wrote', async () => {
  for (const [writer, name] of [
    ['qemu-img', 'theirs.qcow2'],
    [join(bin, 'blockgraph-img'), 'ours.qcow2'],
  ] as const) {
    const made = await run(writer, ['convert', '-f', 'raw', '-O', 'qcow2', 'raw', `${base}/${name}${blind}`])
    expect(made).toMatchObject({ code: 0 })
    for (const reader of ['qemu-img', join(bin, 'blockgraph-img')]) {
      expect(await run(reader, ['compare', `${base}/${name}${blind}`, 'raw'])).toMatchObject({ code: 0 })
    }
  }
})

test('known hosts: plain, hashed, by pattern; another key; another type; revoked', async () => {
  const home = join(folder, 'home')
  mkdirSync(join(home, '.ssh'), { recursive: true })
  const info = async (...lines: string[]): Promise<string> => {
    writeFileSync(join(home, '.ssh', 'known_hosts'), `${lines.join('\n')}\n`)
    const { code, stderr } = await run(join(bin, 'blockgraph-img'), ['info', `${base}/raw`], { HOME: home })
    return code === 0 ? 'ok' : stderr.replace(/^.*': /s, '').trim()
  }
  const name = `[127.0.0.1]:${port}`
  const other = `ssh-ed25519 ${Buffer.alloc(51, 3).toString('base64')}`
  const otherType = `ssh-rsa ${Buffer.alloc(51, 3).toString('base64')}`
  expect(await info(`${name} ${server.publicKey}`)).toBe('ok')
  expect(
    await info('# a comment', `example.org ${other}`, `*.org,[127.*]:${port} ${server.publicKey} me@here`),
  ).toBe('ok')
  expect(await info(`${name} ${other}`, `${name} ${server.publicKey}`)).toBe('ok')
  expect(await info(`!${name},* ${server.publicKey}`)).toBe('no host key was found in known_hosts')
  expect(await info(`127.0.0.1 ${server.publicKey}`)).toBe('no host key was found in known_hosts')
  expect(await info(`${name} ${other}`)).toContain(
    'does not match the one in known_hosts; this may be a possible attack',
  )
  expect(await info(`${name} ${otherType}`)).toBe('host key for this server not found, another type exists')
  expect(await info(`@revoked ${name} ${server.publicKey}`, `${name} ${server.publicKey}`)).toContain(
    'does not match',
  )
  expect(await info(`@cert-authority * ${server.publicKey}`)).toBe('no host key was found in known_hosts')
  writeFileSync(join(home, '.ssh', 'hashed'), `${name} ${server.publicKey}\n`)
  execFileSync('ssh-keygen', ['-q', '-H', '-f', join(home, '.ssh', 'hashed')], { stdio: 'ignore' })
  const hashed = readFileSync(join(home, '.ssh', 'hashed'), 'utf8').trim()
  expect(hashed).toMatch(/^\|1\|/)
  expect(await info(hashed)).toBe('ok')
})

test('own keys without an agent, fingerprints', async () => {
  const home = join(folder, 'keys')
  mkdirSync(join(home, '.ssh'), { recursive: true })
  copyFileSync(server.privateKey, join(home, '.ssh', 'id_ed25519'))
  const env = { HOME: home, SSH_AUTH_SOCK: '' }
  expect(await run(join(bin, 'blockgraph-img'), ['info', `${base}/raw${blind}`], env)).toMatchObject({
    code: 0,
  })
  const [, key = ''] = server.publicKey.split(' ')
  for (const type of ['md5', 'sha1', 'sha256']) {
    const hex = execFileSync('bash', ['-c', `base64 -d | ${type}sum | cut -d ' ' -f 1`], {
      input: key,
      encoding: 'utf8',
    }).trim()
    const colons = hex.replaceAll(/(..)(?!$)/g, '$1:')
    expect(
      await run(join(bin, 'blockgraph-img'), ['info', `${base}/raw?host_key_check=${type}:${colons}`]),
    ).toMatchObject({ code: 0 })
  }
})

test('a connection that breaks fails requests and ends closing', async () => {
  const place = join(folder, 'second')
  mkdirSync(place)
  const second = await SshServer.start(place, port + 1)
  process.env.SSH_AUTH_SOCK = second.environment.SSH_AUTH_SOCK
  try {
    const library = createLibrary()
    const file = {
      driver: 'ssh',
      'server.host': '127.0.0.1',
      'server.port': String(port + 1),
      path: join(folder, 'raw'),
      'host-key-check.mode': 'none',
    }
    const image = await library.openImage({ driver: 'raw', file })
    const buffer = new Uint8Array(MiB)
    await image.read(0, buffer)
    expect(Buffer.compare(buffer, pattern(MiB))).toBe(0)
    second.kill()
    const failure = await image.read(MiB, buffer).then(
      () => undefined,
      (error: unknown) => error,
    )
    expect(isBlockError(failure) && failure.code).toBe('EIO')
    await image.close()
  } finally {
    process.env.SSH_AUTH_SOCK = server.environment.SSH_AUTH_SOCK
    await second[Symbol.asyncDispose]()
  }
}, 20_000)
