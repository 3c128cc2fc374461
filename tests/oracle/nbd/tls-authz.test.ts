import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { distinguishedName } from '../../../src/platform/node/sockets/distinguished-name.js'
import { Authority } from './certificates.js'
import { finish, ourTool, Served } from './servers.js'

// Which certificates are let in: `--tls-authz`, beside qemu-nbd.

const folder = mkdtempSync(join(tmpdir(), 'nbd-authz-'))
const socket = join(folder, 's')
let authority: Authority

beforeAll(() => {
  writeFileSync(join(folder, 'a.raw'), new Uint8Array(65_536))
  authority = new Authority(folder, 'good')
  authority.sign('server', '/CN=localhost')
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

/** The certificate that the next client shows. */
function client(subject: string): void {
  authority.sign('client', subject)
}

interface Attempt {
  readonly code: number
  /** What the server says of it. */
  readonly server: string
}

async function attempt(program: string, ...options: string[]): Promise<Attempt> {
  rmSync(socket, { force: true })
  const credentials = 'tls-creds-x509,id=t,dir=good,endpoint='
  const tls = ['--object', `${credentials}server`, '--tls-creds', 't']
  const args = ['-t', '-k', socket, ...tls, ...options, '-f', 'raw', 'a.raw']
  await using served = await Served.start(program, args, socket, folder)
  const list = ['-L', '-k', socket, '--object', `${credentials}client`, '--tls-creds', 't']
  const { code } = await finish('qemu-nbd', [...list, '--tls-hostname', 'localhost'], folder)
  for (let tries = 0; code !== 0 && served.stderr === '' && tries < 200; tries++) {
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  return { code, server: served.stderr.replaceAll('blockgraph-nbd', 'qemu-nbd') }
}

/** What both servers do. */
async function both(...options: string[]): Promise<Attempt> {
  const theirs = await attempt('qemu-nbd', ...options)
  expect(await attempt(ourTool, ...options), options.join(' ')).toEqual(theirs)
  return theirs
}

describe('names of clients', () => {
  test.each([
    '/CN=client',
    '/C=GB/ST=London/L=Town/O=Acme, Inc/OU=R and D/CN=client',
    '/CN=one/CN=two',
    '/O=a;b<c>"d"=e/CN= spaces ',
    '/CN=#hash/O=a\\+b',
    '/CN=back\\\\slash',
    '/emailAddress=x@y.z/serialNumber=12/CN=x',
    '/DC=org/DC=example/UID=user/CN=büro €',
    '/street=s/title=t/GN=given/SN=sur/postalCode=123/initials=i/generationQualifier=g/CN=x',
    '/businessCategory=b/pseudonym=p/dnQualifier=q/name=n/description=d/CN=x',
  ])('%s', async (subject) => {
    client(subject)
    const { code, server } = await both('--object', 'authz-simple,id=a,identity=nobody', '--tls-authz', 'a')
    expect(code).toBe(1)
    expect(server).toMatch(/TLS x509 authz check for .* is denied/)
    const name = /check for (.*) is denied/.exec(server)?.[1] as string
    const identity = name.replaceAll(',', ',,')
    const allowed = ['--object', `authz-simple,id=a,identity=${identity}`, '--tls-authz', 'a']
    expect(await both(...allowed)).toEqual({ code: 0, server: '' })
  })

  test('a certificate that ends anywhere is none', () => {
    client('/C=GB/O=Acme/CN=client')
    execFileSync('openssl', ['x509', '-in', 'good/client-cert.pem', '-outform', 'DER', '-out', 'c.der'], {
      cwd: folder,
    })
    const der = new Uint8Array(execFileSync('cat', ['c.der'], { cwd: folder }))
    expect(distinguishedName(der)).toBe('C=GB,O=Acme,CN=client')
    for (let length = 0; length < der.length; length++) {
      expect(() => distinguishedName(der.subarray(0, length))).toThrow(RangeError)
    }
    // Whatever stands in a byte: a name or an error of this kind, at once.
    for (let at = 0; at < 200; at++) {
      for (const value of [0, 0x30, 0x7f, 0x80, 0x84, 0xff]) {
        const damaged = Uint8Array.from(der)
        damaged[at] = value
        try {
          expect(typeof distinguishedName(damaged)).toBe('string')
        } catch (error) {
          expect(error).toBeInstanceOf(RangeError)
        }
      }
    }
  })
})

describe('objects', () => {
  const rules = [
    'rules.0.match=CN=bad.x,rules.0.policy=deny',
    'rules.1.match=CN=*.x,rules.1.policy=allow,rules.1.format=glob',
  ].join(',')

  test('a list of rules', async () => {
    const list = ['--object', `authz-list,id=a,policy=deny,${rules}`, '--tls-authz', 'a']
    client('/CN=good.x')
    expect((await both(...list)).code).toBe(0)
    client('/CN=bad.x')
    expect((await both(...list)).code).toBe(1)
    client('/CN=other')
    expect((await both(...list)).code).toBe(1)
    expect((await both('--object', `authz-list,id=a,policy=allow,${rules}`, '--tls-authz', 'a')).code).toBe(0)
  })

  test('that are missing, or others, let nobody in', async () => {
    client('/CN=good.x')
    expect((await both('--tls-authz', 'none')).server).toContain('Cannot find QAuthZ object ID none')
    expect((await both('--tls-authz', 't')).server).toContain("Object 't' is not a QAuthZ subclass")
  })

  test('a file of rules, which QEMU 7.2 knows by two names and makes by none', async () => {
    client('/CN=good.x')
    const object = ['--object', 'authz-list-file,id=a,filename=rules.json', '--tls-authz', 'a']
    writeFileSync(
      join(folder, 'rules.json'),
      '{"rules": [{"match": "CN=good.*", "policy": "allow", "format": "glob"}]}',
    )
    expect(await attempt(ourTool, ...object)).toEqual({ code: 0, server: '' })
    copyFileSync(join(folder, 'rules.json'), join(folder, 'other.json'))
    writeFileSync(join(folder, 'rules.json'), '{"rules": []}')
    expect((await attempt(ourTool, ...object)).code).toBe(1)
  })
})
