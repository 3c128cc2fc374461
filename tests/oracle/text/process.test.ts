import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { comparable, Fixture } from './fixture.js'

/** The tools as processes: names, streams, signals. The programs are built from the sources as they are. */
const root = fileURLToPath(new URL('../../..', import.meta.url))
// Below node_modules, so that external packages are found.
const dist = mkdtempSync(join(root, 'node_modules/.blockgraph-text-'))
let fixture: Fixture
let folder: string

beforeAll(async () => {
  fixture = new Fixture()
  folder = fixture.folder('process')
  await build({
    entryPoints: { tools: join(root, 'src/tools/main-tools.ts') },
    outdir: dist,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    packages: 'external',
    logLevel: 'silent',
  })
  for (const [name, tool] of [
    ['qemu-img', 'blockgraph-img'],
    ['blockgraph', 'blockgraph'],
  ] as const) {
    const script = join(dist, `${tool}.mjs`)
    const source = `import { start } from './tools.mjs'\nawait start('${tool}')\n`
    writeFileSync(script, `#!/usr/bin/env node\n${source}`, { mode: 0o755 })
    symlinkSync(script, join(folder, name))
  }
})

afterAll(() => {
  rmSync(dist, { recursive: true, force: true })
  fixture?.remove()
})

function ours(program: string, ...args: string[]) {
  const { stdout, stderr, status } = spawnSync(join(folder, program), args, { cwd: folder, encoding: 'utf8' })
  return { stdout: comparable(stdout), stderr, status }
}

function oracle(...args: string[]) {
  const { stdout, stderr, status } = spawnSync('qemu-img', args, { cwd: folder, encoding: 'utf8' })
  return { stdout: comparable(stdout), stderr, status }
}

describe('through a link called qemu-img', () => {
  for (const args of [
    ['info', 'q.qcow2'],
    ['info', '--output=json', 'chain.qcow2'],
    ['info', 'missing'],
    ['info', 'nosuch:x'],
    ['map', '--output=json', 'q.qcow2'],
    ['check', 'leak.qcow2'],
    ['check', 'r.raw'],
    ['compare', 'r.raw', 'other.raw'],
    ['resize', 'r.raw', '1'],
    ['bogus'],
    [],
    ['info', '-f'],
    ['info', '--object', 'secret,id=a', 'r.raw'],
    ['create', '-f', 'qcow2', 'made.qcow2', '1M'],
    ['info', 'r.raw', '--image-opts'],
  ]) {
    test(args.join(' '), () => {
      expect(ours('qemu-img', ...args)).toEqual(oracle(...args))
    })
  }
})

test('through the umbrella', () => {
  const expected = oracle('info', 'q.qcow2')
  expect(ours('blockgraph', 'info', 'q.qcow2')).toEqual(expected)
  expect(ours('blockgraph', 'img', 'info', 'q.qcow2')).toEqual(expected)
  expect(ours('blockgraph', 'info', 'missing').stderr).toBe(
    "blockgraph: Could not open 'missing': Could not open 'missing': No such file or directory\n",
  )
})

function shell(command: string) {
  const env = { ...process.env, PATH: `${folder}:${process.env.PATH ?? ''}` }
  const { stdout, stderr, status } = spawnSync('bash', ['-o', 'pipefail', '-c', command], {
    cwd: folder,
    env,
  })
  return { stdout, stderr: stderr.toString(), status }
}

describe('pipes', () => {
  test('raw to standard output and back', () => {
    const result = shell('blockgraph convert q.qcow2 - | blockgraph convert -f raw -O qcow2 - piped.qcow2')
    expect(result).toMatchObject({ stderr: '', status: 0 })
    expect(oracle('compare', 'q.qcow2', 'piped.qcow2').stdout).toBe('Images are identical.\n')
    expect(shell('blockgraph convert r.raw -').stdout.equals(readFileSync(join(folder, 'r.raw')))).toBe(true)
  })

  test('qcow2 to a file that standard output leads to', () => {
    expect(
      shell(
        'blockgraph convert -O qcow2 - out.qcow2 < r.raw && blockgraph convert -O qcow2 out.qcow2 - > again.qcow2',
      ),
    ).toMatchObject({ stderr: '', status: 0 })
    expect(oracle('compare', '-f', 'qcow2', '-F', 'raw', 'again.qcow2', 'r.raw').stdout).toBe(
      'Images are identical.\n',
    )
    expect(oracle('check', 'again.qcow2').status).toBe(0)
  })

  test('a reader that goes away: text ends quietly, image data with a message', () => {
    const text = shell(
      'for i in 1 2 3; do blockgraph --help; done | head -c 1 >/dev/null; echo "$PIPESTATUS"',
    )
    expect([text.stdout.toString(), text.stderr]).toEqual(['0\n', ''])
    const data = shell(
      'truncate -s 64M big; (blockgraph convert -f raw big -; echo $? >&2) | head -c 1 > /dev/null',
    )
    expect(data.stderr).toBe('blockgraph: error while writing to standard output: Broken pipe\n1\n')
  })

  test('standard output closed from the start', () => {
    expect(shell('blockgraph info r.raw >&-')).toMatchObject({ status: 0 })
  })
})

function start(...args: string[]): {
  child: ChildProcess
  stderr: () => string
  ended: Promise<[number | null, NodeJS.Signals | null]>
} {
  const child = spawn(join(folder, 'qemu-img'), args, {
    cwd: folder,
    stdio: ['ignore', openSync('/dev/null', 'w'), 'pipe'],
  })
  let stderr = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    stderr += chunk.toString()
  })
  const ended = new Promise<[number | null, NodeJS.Signals | null]>((resolve) => {
    child.on('close', (code, signal) => resolve([code, signal]))
  })
  return { child, stderr: () => stderr, ended }
}

async function until(condition: () => boolean): Promise<void> {
  for (const end = Date.now() + 20_000; !condition(); ) {
    if (Date.now() > end) {
      throw new Error('it did not happen')
    }
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

describe('signals', () => {
  beforeAll(() => {
    writeFileSync(join(folder, 'slow.raw'), Buffer.alloc(32 * 1024 * 1024, 7))
  })

  const partial = () => readdirSync(folder).filter((name) => name.endsWith('.part'))

  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    test(`${signal} ends a conversion without leftovers, and the process by that signal`, async () => {
      const { child, stderr, ended } = start(
        'convert',
        '-f',
        'raw',
        '-O',
        'qcow2',
        '-r',
        '1M',
        'slow.raw',
        'target',
      )
      await until(() => partial().length > 0)
      child.kill(signal)
      expect(await ended).toEqual([null, signal])
      expect(stderr()).toBe('')
      expect(partial()).toEqual([])
      expect(existsSync(join(folder, 'target'))).toBe(false)
    })
  }

  test('SIGUSR1 asks for progress', async () => {
    const { child, stderr, ended } = start(
      'convert',
      '-f',
      'raw',
      '-O',
      'raw',
      '-r',
      '16M',
      'slow.raw',
      'asked',
    )
    await until(() => partial().length > 0)
    const asking = setInterval(() => child.kill('SIGUSR1'), 50)
    await until(() => stderr() !== '')
    clearInterval(asking)
    child.kill('SIGTERM')
    await ended
    expect(stderr()).toMatch(/^( {4}\(\d+\.\d\d\/100%\)\n)+$/)
  })
})
