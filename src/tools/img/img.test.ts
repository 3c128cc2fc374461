import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { allDrivers } from '../../all-drivers.js'
import { createBlockLayer } from '../../graph/index.js'
import { createNodeHost } from '../../platform/node/index.js'
import type { ToolContext } from '../context.js'
import { runUmbrella } from '../umbrella.js'
import { packageVersion, qemuVersion } from '../version.js'
import { run } from './run.js'

/** What this package adds to `qemu-img`; the rest is compared with it in tests/oracle/text. */

const folder = mkdtempSync(join(tmpdir(), 'blockgraph-img-'))
const raw = join(folder, 'r.raw')
const mebibyte = 1024 * 1024
const contents = new Uint8Array(8 * mebibyte)

beforeAll(() => {
  contents.fill(1, 64 * 1024, 128 * 1024)
  contents.fill(2, 3 * mebibyte, 4 * mebibyte)
  writeFileSync(raw, contents)
})

afterAll(() => rmSync(folder, { recursive: true, force: true }))

interface Result {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
  readonly data: Buffer
}

async function call(args: string[], options: Partial<ToolContext> = {}, tool = run): Promise<Result> {
  let stdout = ''
  let stderr = ''
  const data: Uint8Array[] = []
  const status = await tool(args, {
    program: 'tool',
    stdout: (text) => {
      stdout += text
    },
    stderr: (text) => {
      stderr += text
    },
    sink: {
      write: (chunk) => {
        data.push(chunk.slice())
        return undefined
      },
    },
    source: (async function* () {})(),
    terminal: undefined,
    signal: new AbortController().signal,
    createLayer: async (warn) => createBlockLayer({ host: createNodeHost({ warn }), drivers: allDrivers }),
    onProgressRequest: () => () => undefined,
    ...options,
  })
  return { status, stdout, stderr, data: Buffer.concat(data) }
}

async function* chunks(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array, void, void> {
  for (let at = 0; at < bytes.length; at += size) {
    yield bytes.subarray(at, at + size)
  }
}

describe('help and version', () => {
  test('the version is the package’s', async () => {
    const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }
    expect(packageVersion).toBe(manifest.version)
    expect(spawnSync('qemu-img', ['--version'], { encoding: 'utf8' }).stdout).toContain(qemuVersion)
    expect((await call(['--version'])).stdout).toBe(
      `tool version ${packageVersion} (qemu-img ${qemuVersion})\n`,
    )
    const asQemu = await call(['-V'], { program: 'qemu-img' })
    expect(asQemu.stdout).toBe(`qemu-img version ${qemuVersion} (blockgraph ${packageVersion})\n`)
  })

  test('help lists commands and formats, and so do commands', async () => {
    const { stdout, status } = await call(['--help'])
    expect(status).toBe(0)
    expect(stdout).toContain('usage: tool [standard options] command')
    expect(stdout).toMatch(/^ {2}convert .* output_filename$/m)
    expect(stdout).toMatch(/^Supported formats: (?=.*\bfile host_device\b)(?=.*\bqcow2\b)(?=.*\braw\b)/m)
    for (const args of [
      ['-h'],
      ['info', '--help'],
      ['convert', '-h', 'x'],
      ['measure', '-Z'],
      ['measure', '--o=x'],
    ]) {
      expect(await call(args)).toMatchObject({ status: 0, stdout })
    }
    expect((await call(['measure', '-Z'])).stderr).toBe("measure: invalid option -- 'Z'\n")
  })
})

test('the umbrella has the commands at the top and below img', async () => {
  const plain = await call(['info', raw], {}, runUmbrella)
  expect(plain).toMatchObject({ status: 0, stderr: '' })
  expect(await call(['img', 'info', raw], {}, runUmbrella)).toEqual(plain)
  expect((await call(['img', 'info'], {}, runUmbrella)).stderr).toContain('tool img: Expecting one image')
  expect((await call(['-V'], {}, runUmbrella)).stdout).toContain('tool version')
})

test('--debug shows where errors come from', async () => {
  const plain = await call(['info', join(folder, 'missing')])
  expect(plain.stderr.split('\n')).toHaveLength(2)
  for (const args of [
    ['--debug', 'info'],
    ['info', '--debug'],
  ]) {
    const { stderr, status } = await call([...args, join(folder, 'missing')])
    expect(status).toBe(1)
    expect(stderr).toMatch(/^tool: Could not open/)
    expect(stderr).toMatch(/^caused by BlockError/m)
  }
})

test('an error of the program itself is told from one of the image', async () => {
  const createLayer = () => Promise.reject(new TypeError('oops'))
  expect(await call(['info', raw], { createLayer })).toMatchObject({
    status: 1,
    stderr: 'tool: internal error: oops\n',
  })
})

describe('progress', () => {
  const target = () => join(folder, `target${Math.random()}`)

  test('as JSON lines', async () => {
    for (const args of [
      ['convert', '-O', 'qcow2', raw, target()],
      ['compare', raw, raw],
      ['dd', `if=${raw}`, `of=${target()}`],
    ]) {
      const [command = '', ...rest] = args
      const { status, stdout } = await call([command, '--progress=json', ...rest])
      expect(status).toBe(0)
      const lines = stdout.split('\n').filter((line) => line.startsWith('{'))
      const last = JSON.parse(lines.at(-1) ?? '') as { done: number; total: number; percent: number }
      expect(last.percent).toBe(100)
      expect(last.done).toBe(last.total)
      expect(last.total).toBeGreaterThan(mebibyte)
    }
    expect(await call(['convert', '--progress=xml', raw, target()])).toMatchObject({
      status: 1,
      stderr: 'tool: --progress must be used with json as argument.\n',
    })
  })

  test('as JSON lines beside image data', async () => {
    const { stdout, stderr, data } = await call(['convert', '--progress=json', raw, '-'])
    expect(stdout).toBe('')
    expect(stderr).toContain('"percent":100')
    expect(data.equals(contents)).toBe(true)
  })

  test('as a bar on a terminal, never wider than it', async () => {
    for (const columns of [200, 80, 40, 20]) {
      const { status, stdout } = await call(['convert', '-p', raw, target()], { terminal: { columns } })
      expect(status).toBe(0)
      expect(stdout.endsWith('\n')).toBe(true)
      const frames = stdout.trimEnd().split('\r')
      expect(Math.max(...frames.map((frame) => frame.length))).toBeLessThan(columns)
      expect(frames.at(-1)).toContain('100.0%')
      expect(frames.at(-1)?.startsWith('[####')).toBe(columns >= 40)
    }
  })

  test('in QEMU’s format elsewhere, and not at all when quiet', async () => {
    expect((await call(['convert', '-p', raw, target()])).stdout).toMatch(
      /^ {4}\(0\.00\/100%\)\r.*\(100\.00\/100%\)\r\n$/s,
    )
    expect((await call(['convert', '-p', '-q', raw, target()])).stdout).toBe('')
    expect((await call(['convert', '-p', raw, '-'])).stdout).toBe('')
  })

  test('on request', async () => {
    let ask = () => {}
    let listening = false
    const onProgressRequest = (handler: () => void) => {
      ask = handler
      listening = true
      ask()
      return () => {
        listening = false
      }
    }
    const { stderr } = await call(['convert', raw, target()], { onProgressRequest })
    expect(stderr).toMatch(/^ {4}\(\d+\.\d\d\/100%\)\n$/)
    expect(listening).toBe(false)
  })
})

describe('standard input and output', () => {
  test('raw in and out', async () => {
    const target = join(folder, 'from-stdin')
    expect(
      await call(['convert', '-f', 'raw', '-', target], { source: chunks(contents, 100_000) }),
    ).toMatchObject({
      status: 0,
      stderr: '',
    })
    expect(readFileSync(target).equals(contents)).toBe(true)
    const { status, data } = await call(['convert', target, '-'])
    expect(status).toBe(0)
    expect(data.equals(contents)).toBe(true)
  })

  test('qcow2 out and in, probed', async () => {
    const { data, status } = await call(['convert', '-O', 'qcow2', raw, '-'])
    expect(status).toBe(0)
    const file = join(folder, 'stream.qcow2')
    writeFileSync(file, data)
    const oracle = spawnSync('qemu-img', ['compare', raw, file], { encoding: 'utf8' })
    expect(oracle.stdout).toBe('Images are identical.\n')
    const back = join(folder, 'back.raw')
    expect(await call(['convert', '-', back], { source: chunks(data, 70_001) })).toMatchObject({ status: 0 })
    expect(readFileSync(back).equals(contents)).toBe(true)
  })

  test('what makes no sense there is refused', async () => {
    for (const args of [
      ['-', '-'],
      ['-B', raw, '-F', 'raw', '-O', 'qcow2', raw, '-'],
      ['-r', '1M', raw, '-'],
      ['-l', 'x', raw, '-'],
      ['--salvage', raw, '-'],
      ['-C', raw, '-'],
      ['-', raw, join(folder, 'y')],
    ]) {
      const { status, stderr } = await call(['convert', ...args])
      expect(status).toBe(1)
      expect(stderr).toMatch(
        /^tool: (.* cannot be used when writing to standard output|Standard input cannot be joined .*)\n$/,
      )
    }
  })

  test('image data does not go to a terminal', async () => {
    const { status, stderr, data } = await call(['convert', raw, '-'], { terminal: { columns: 80 } })
    expect({ status, stderr, bytes: data.length }).toEqual({
      status: 1,
      stderr: 'tool: Image data is not written to a terminal\n',
      bytes: 0,
    })
  })

  test('a reader that goes away is an error, and says so once', async () => {
    const { BlockError } = await import('../../errors/index.js')
    const sink = { write: () => Promise.reject(new BlockError('EPIPE', 'Broken pipe')) }
    expect(await call(['convert', raw, '-'], { sink })).toMatchObject({
      status: 1,
      stderr: 'tool: Broken pipe\n',
    })
  })
})

test('an interrupted conversion leaves nothing and says nothing', async () => {
  const controller = new AbortController()
  const target = join(folder, 'interrupted')
  setTimeout(() => controller.abort(), 30)
  const { status, stderr } = await call(['convert', '-r', '1M', raw, target], { signal: controller.signal })
  expect({ status, stderr, exists: existsSync(target) }).toEqual({ status: 1, stderr: '', exists: false })
})

test('secrets: keys of other secrets are checked', async () => {
  const key = 'secret,id=key,data=01234567890123456789012345678901'
  expect(
    (await call(['info', '--object', key, '--object', 'secret,id=a,data=x,keyid=key', raw])).stderr,
  ).toBe('tool: IV is required to decrypt secret\n')
  expect(
    (await call(['info', '--object', key, '--object', 'secret,id=a,data=x,keyid=key,iv=AA==', raw])).stderr,
  ).toBe('tool: IV should be 16 bytes in length not 1\n')
  // What `openssl enc -aes-256-cbc` makes of "hunter2".
  const sealed = 'data=si6gwHhOSs8JquHkq8g3Qg==,format=base64,keyid=key'
  const iv = 'iv=MDEyMzQ1Njc4OWFiY2RlZg=='
  const made = ['info', '--object', key, '--object', `secret,id=a,${sealed},${iv}`]
  expect((await call([...made, raw])).status).toBe(0)
  expect((await call([...made, '--object', 'secret,id=b,data=x,keyid=b', raw])).stderr).toBe(
    "tool: Secret with id 'b' has no data\n",
  )
  expect((await call([...made, '--object', 'secret,id=a,data=y', raw])).stderr).toBe(
    "tool: attempt to add duplicate property 'a' to object (type 'container')\n",
  )
  expect(
    (
      await call([
        'info',
        '--object',
        key,
        '--object',
        `secret,id=a,${sealed},iv=AAAAAAAAAAAAAAAAAAAAAA==`,
        raw,
      ])
    ).stderr,
  ).toBe('tool: Incorrect number of padding bytes (111) found on decrypted data\n')
})
