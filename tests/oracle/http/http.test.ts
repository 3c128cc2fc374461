import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer as createSocketServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { addSecret, createLibrary, isBlockError } from '../../../src/index.js'
import { finish } from '../nbd/servers.js'
import { type Manners, WebServer } from './web-server.js'

// The http driver on servers of all manners, beside qemu-img where it can read from them.

const ourImg = fileURLToPath(new URL('../../../bin/blockgraph-img', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'http-'))
const MiB = 1 << 20

function pattern(bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, i) => (Math.imul(i, 2654435761) >>> 13) & 255)
}

const contents = pattern(3 * MiB + 700)
let qcow2: Uint8Array

beforeAll(() => {
  const image = join(folder, 'a.qcow2')
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', image, '8M'])
  execFileSync('qemu-io', ['-c', 'write -P 5 1M 3M', '-c', 'write -P 6 6M 100k', image], { stdio: 'ignore' })
  qcow2 = readFileSync(image)
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

/** What a tool printed, without ports and times. */
async function outcome(tool: string, args: readonly string[]) {
  const { code, stdout, stderr } = await finish(tool, args, folder)
  const clean = (text: string): string =>
    text
      .replaceAll('blockgraph-img: ', 'qemu-img: ')
      .replace(/after \d+ ms/, 'after N ms')
      .replaceAll(/qemu-img: GLib: .*\n/g, '')
  return { code, stdout: clean(stdout), stderr: clean(stderr) }
}

async function failure(run: () => Promise<unknown>): Promise<string> {
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

/** Reads the whole of a raw image. */
async function readAll(
  url: string,
  options: Record<string, string | number | boolean> = {},
): Promise<Uint8Array> {
  const library = createLibrary()
  await using image = await library.openImage({ driver: 'raw', file: { driver: 'http', url, ...options } })
  const buffer = new Uint8Array(image.size)
  await image.read(0, buffer)
  return buffer.subarray(0, contents.length)
}

async function expectContents(
  manners: Manners,
  options: Record<string, string | number | boolean> = {},
): Promise<WebServer> {
  const web = await WebServer.start(contents, manners)
  try {
    expect(Buffer.compare(await readAll(web.url, options), contents)).toBe(0)
  } finally {
    await web[Symbol.asyncDispose]()
  }
  return web
}

test('info, map, compare and convert as qemu-img', async () => {
  await using web = await WebServer.start(qcow2)
  for (const args of [
    ['info', web.url],
    ['info', '--output=json', '-f', 'raw', web.url],
    ['map', '--output=json', web.url],
    ['compare', web.url, join(folder, 'a.qcow2')],
    ['check', web.url],
    ['info', '--image-opts', `driver=qcow2,file.driver=http,file.url=${web.url},file.sslverify=off`],
    ['info', '--image-opts', `driver=http,url=${web.url},cookie=a=b,username=me`],
    ['create', web.url, '1M'],
    ['info', `${web.url}x`],
    ['info', 'http://127.0.0.1:1/x'],
    ['info', 'http://no-such-host.invalid/x'],
    ...['url=ftp://x', 'url=http://x/a,readahead=100', 'url=http://x/a,timeout=100000', 'readahead=512'].map(
      (text) => ['info', '--image-opts', `driver=http,${text}`],
    ),
    ...[
      'cookie=a,cookie-secret=b',
      'cookie-secret=b',
      'password-secret=b',
      'timeout=-1',
      'proxy-password-secret=x',
    ].map((text) => ['info', '--image-opts', `driver=http,url=${web.url},${text}`]),
    ['resize', '-f', 'raw', web.url, '1M'],
  ]) {
    expect(await outcome(ourImg, args), args.join(' ')).toEqual(await outcome('qemu-img', args))
  }
  const args = (source: string, target: string): string[] => ['convert', '-O', 'raw', source, target]
  expect(await finish('qemu-img', args('a.qcow2', 'theirs'), folder)).toMatchObject({ code: 0 })
  expect(await finish(ourImg, args(web.url, 'ours'), folder)).toMatchObject({ code: 0 })
  const [theirs, ours] = ['theirs', 'ours'].map((name) => readFileSync(join(folder, name)))
  expect(Buffer.compare(ours as Buffer, theirs as Buffer)).toBe(0)
}, 60_000)

test('as a backing file, written over in an overlay', async () => {
  await using web = await WebServer.start(qcow2)
  const overlay = join(folder, 'overlay.qcow2')
  const made = await finish(ourImg, ['create', '-f', 'qcow2', '-b', web.url, '-F', 'qcow2', overlay], folder)
  expect(made.code).toBe(0)
  const library = createLibrary()
  {
    await using image = await library.openImage(overlay, { readOnly: false })
    await image.write(MiB + 5, new Uint8Array(10).fill(9))
    await image.flush()
  }
  const { stdout } = await finish('qemu-io', ['-r', '-c', 'read -v 1048576 32', overlay], folder)
  expect(stdout).toContain('05 05 05 05 05 09 09 09 09 09 09 09 09 09 09 05')
}, 30_000)

test('reads in order ask for more at a time, and for nothing twice', async () => {
  const web = await expectContents({})
  const asked = web.requests.filter((line) => line.startsWith('GET'))
  expect(new Set(asked).size).toBe(asked.length)
  await using slow = await WebServer.start(contents, {
    intercept: (_request, response) => {
      const { end } = response
      // Long enough for requests to meet.
      response.end = ((...args: Parameters<typeof end>) => {
        setTimeout(() => end.apply(response, args), 20)
        return response
      }) as typeof end
      return false
    },
  })
  const library = createLibrary()
  await using image = await library.openImage({ driver: 'raw', file: { driver: 'http', url: slow.url } })
  const buffer = new Uint8Array(65536)
  for (let at = 0; at + buffer.length <= contents.length; at += buffer.length) {
    await image.read(at, buffer)
    expect(Buffer.compare(buffer, contents.subarray(at, at + buffer.length))).toBe(0)
  }
  expect(slow.busiest).toBeGreaterThan(1)
  expect(slow.requests.length).toBeLessThan(16)
})

test.each([
  ['HEAD is refused', { headStatus: 403 }],
  ['HEAD is not known', { headStatus: 501 }],
  ['ranges are not announced', { announcesRanges: false }],
  ['no ranges, small', { ranges: false }],
  ['lengths are not announced', { announcesLength: false }],
])('%s', async (_name, manners) => {
  await expectContents(manners)
})

test('without readahead', async () => {
  const web = await expectContents({}, { readahead: 0 })
  expect(web.requests).toEqual(['HEAD', `GET bytes=0-${contents.length - 1}`])
})

test('credentials and cookies', async () => {
  const secret = { authorization: `Basic ${btoa('me:it:self')}`, cookie: 'a=b; c=d' }
  await using web = await WebServer.start(contents, secret)
  const library = createLibrary()
  addSecret(library.layer, { id: 'pw', format: 'raw', data: 'it:self' })
  addSecret(library.layer, { id: 'jar', format: 'raw', data: 'a=b; c=d' })
  const file = {
    driver: 'http',
    url: web.url,
    username: 'me',
    'password-secret': 'pw',
    'cookie-secret': 'jar',
  }
  await using image = await library.openImage({ driver: 'raw', file })
  const buffer = new Uint8Array(1000)
  await image.read(2 * MiB, buffer)
  expect(Buffer.compare(buffer, contents.subarray(2 * MiB, 2 * MiB + 1000))).toBe(0)
  expect(await failure(() => readAll(web.url))).toContain('The requested URL returned error: 401')
  const inUrl = web.url.replace('//', '//me:it%3Aself@')
  expect(Buffer.compare(await readAll(inUrl, { cookie: 'a=b; c=d' }), contents)).toBe(0)
})

test('redirections: credentials stay at home, a link that expired is asked for again', async () => {
  let expired = 0
  const seen: (string | undefined)[] = []
  await using store = await WebServer.start(contents, {
    intercept: (request, response) => {
      seen.push(request.headers.authorization)
      if (request.method === 'GET' && expired++ === 1) {
        response.writeHead(403).end()
        return true
      }
      return false
    },
  })
  await using front = await WebServer.start(contents, {
    intercept: (_request, response) => {
      response.writeHead(302, { location: store.url }).end()
      return true
    },
  })
  const options = { username: 'me', readahead: 64 * 1024 }
  expect(Buffer.compare(await readAll(front.url, options), contents)).toBe(0)
  expect(expired).toBeGreaterThan(1)
  expect(new Set(seen)).toEqual(new Set([undefined]))
  expect(front.requests.length).toBeGreaterThanOrEqual(2)
  await using loop = await WebServer.start(contents, {
    intercept: (_request, response) => {
      response.writeHead(302, { location: '/disk' }).end()
      return true
    },
  })
  expect(await failure(() => readAll(loop.url))).toContain('Maximum (20) redirects followed')
  await using away = await WebServer.start(contents, {
    intercept: (_request, response) => {
      response.writeHead(302, { location: 'file:///etc/passwd' }).end()
      return true
    },
  })
  expect(await failure(() => readAll(away.url))).toContain('Protocol "file" not supported')
})

test('connections that break and servers that are busy are tried again', async () => {
  let count = 0
  const web = await expectContents({
    intercept: (request, response) => {
      if (request.method !== 'GET') {
        return false
      }
      count++
      if (count === 1) {
        response.writeHead(503).end()
        return true
      }
      if (count % 3 === 0) {
        const start = Number(/=(\d+)-/.exec(request.headers.range ?? '')?.[1])
        const end = contents.length - 1
        response.writeHead(206, {
          'content-range': `bytes ${start}-${end}/${contents.length}`,
          'content-length': end + 1 - start,
        })
        response.write(contents.subarray(start, start + 50_000), () => response.destroy())
        return true
      }
      return false
    },
  })
  expect(web.requests.length).toBeGreaterThan(3)
})

test('a server that keeps failing is an error, and the next read asks again', async () => {
  let broken = true
  await using web = await WebServer.start(contents, {
    intercept: (request, response) => {
      if (broken && request.method === 'GET') {
        response.writeHead(500).end()
        return true
      }
      return false
    },
  })
  const library = createLibrary()
  await using image = await library.openImage({ driver: 'raw', file: { driver: 'http', url: web.url } })
  const buffer = new Uint8Array(512)
  expect(await failure(() => image.read(0, buffer))).toContain('The requested URL returned error: 500')
  broken = false
  await image.read(512, buffer)
  expect(Buffer.compare(buffer, contents.subarray(512, 1024))).toBe(0)
}, 20_000)

test('a file that changes is an error', async () => {
  let etag = '"1"'
  await using web = await WebServer.start(contents, { etag: () => etag })
  const library = createLibrary()
  await using image = await library.openImage({ driver: 'raw', file: { driver: 'http', url: web.url } })
  await image.read(0, new Uint8Array(512))
  etag = '"2"'
  expect(await failure(() => image.read(2 * MiB, new Uint8Array(512)))).toBe('File has changed on the server')
})

test('servers that lie or say nothing', async () => {
  const answers: readonly ((request: { method?: string | undefined }) => string)[] = [
    () => 'nonsense\r\n\r\n',
    () => '',
    () => 'HTTP/1.1 206 x\r\ncontent-range: bytes 0-0/99999999999999999\r\ncontent-length: 1\r\n\r\nx',
    () => 'HTTP/1.1 206 x\r\ncontent-range: bytes 0-0/*\r\ncontent-length: 1\r\n\r\nx',
    () => 'HTTP/1.1 200 x\r\ncontent-length: 99999999999\r\n\r\nx',
    () => 'HTTP/1.1 200 x\r\ncontent-length: 10\r\n\r\nx',
    () => 'HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n',
    () => 'HTTP/1.1 302 x\r\nlocation: http://[\r\ncontent-length: 0\r\n\r\n',
    () => 'HTTP/1.1 416 x\r\ncontent-length: 0\r\n\r\n',
  ]
  for (const text of answers) {
    const sockets = new Set<Socket>()
    const server = createSocketServer((socket) => {
      sockets.add(socket)
      socket.on('error', () => undefined)
      socket.once('data', () => socket.end(text({})))
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const address = server.address()
    const port = typeof address === 'object' ? address?.port : undefined
    const message = await failure(() => readAll(`http://127.0.0.1:${port}/disk`, { timeout: 2 }))
    expect(message).toContain('CURL: Error opening file: ')
    server.close()
  }
}, 30_000)

test('a server that falls silent is given up after the timeout', async () => {
  await using web = await WebServer.start(contents, { intercept: () => true })
  const start = performance.now()
  const message = await failure(() => readAll(web.url, { timeout: 1 }))
  expect(message).toContain('Operation timed out after 1000 milliseconds')
  expect(performance.now() - start).toBeLessThan(8000)
}, 20_000)
