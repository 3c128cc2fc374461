import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { allDrivers } from '../../../src/all-drivers.js'
import { isBlockError } from '../../../src/errors/index.js'
import { Backend, createBlockLayer, reopenNode } from '../../../src/graph/index.js'
import { OptionDict } from '../../../src/options/index.js'
import { createNodeHost } from '../../../src/platform/node/index.js'

/** What a reopen accepts and how it refuses, beside `qemu-io -c 'reopen -o …'`. */
let folder: string
const start = process.cwd()

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'blockgraph-reopen-'))
  const img = (...args: string[]) => execFileSync('qemu-img', args, { cwd: folder, stdio: 'pipe' })
  img('create', '-q', '-f', 'raw', 'base.raw', '1M')
  img('create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'a.qcow2')
  img('create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', 'v2.qcow2', '1M')
})

afterAll(() => {
  process.chdir(start)
  rmSync(folder, { recursive: true, force: true })
})

const qcow2 = [
  '',
  'lazy-refcounts=on',
  'file.filename=x',
  'file.locking=off',
  'file.aio=native',
  'file.discard=off',
  'file.cache.direct=on',
  'file.x-check-cache-dropped=on',
  'node-name=x',
  'driver=raw',
  'driver=qcow2',
  'foo=bar',
  'file.foo=bar',
  'backing=nosuch',
  'file=nosuch',
  'backing.file.filename=other',
  'backing.driver=raw',
  'backing.read-only=off',
  'discard=perhaps',
  'discard=unmap',
  'detect-zeroes=on',
  'read-only=perhaps',
  'cache.direct=on',
  'cache.direct=perhaps',
  'cache-size=64k',
  'l2-cache-size=64k,cache-size=32k',
  'refcount-cache-size=64k,cache-size=32k',
  'l2-cache-size=64k,refcount-cache-size=256k,cache-size=1M',
  'l2-cache-entry-size=1000',
  'l2-cache-entry-size=4k,l2-cache-size=64k',
  'l2-cache-size=perhaps',
  'overlap-check=most',
  'overlap-check=all',
  'overlap-check.template=none,overlap-check=all',
  'overlap-check.active-l2=off',
  'pass-discard-request=off',
]
const raw = [
  '',
  'size=64k',
  'size=100',
  'size=2M',
  'offset=64k',
  'offset=10M',
  'offset=64k,size=1M',
  'offset=x',
  'backing=x',
]

const cases = [
  ...qcow2.map((options) => ['a.qcow2', 'qcow2', options] as const),
  ...raw.map((options) => ['base.raw', 'raw', options] as const),
  ['v2.qcow2', 'qcow2', 'lazy-refcounts=on'] as const,
]

test.each(cases)('%s (%s): reopen -o "%s"', async (name, format, options) => {
  const command = options === '' ? 'reopen' : `reopen -o ${options}`
  const theirs = spawnSync('qemu-io', ['-f', format, '-c', command, '-c', 'length', name], {
    cwd: folder,
    encoding: 'utf8',
  })
  expect(theirs.error).toBeUndefined()
  process.chdir(folder)
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  const user = await Backend.open(layer, name, { driver: format }, { write: true, unmap: true })
  let text = ''
  try {
    const pairs = options.split(',').filter((pair) => pair !== '')
    await reopenNode(
      user.node,
      new OptionDict(
        pairs.map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]),
      ),
    )
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
    text = `qemu-io: ${error.message}\n${error.hint === undefined ? '' : `${error.hint}\n`}`
  }
  const { length } = user
  await user.close()
  process.chdir(start)
  const plain = (message: string) => message.replace(/#block\d+/g, '#block')
  expect(plain(text)).toBe(plain(theirs.stderr))
  const shown = length % (1 << 20) === 0 ? `${length / (1 << 20)} MiB` : `${length / 1024} KiB`
  expect(`${shown}\n`).toBe(theirs.stdout)
})
