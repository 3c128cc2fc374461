import fs from 'node:fs'
import path from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { allDrivers } from '../../../src/all-drivers.js'
import { createBlockLayer } from '../../../src/graph/index.js'
import { compactImage } from '../../../src/image/index.js'
import { createNodeHost } from '../../../src/platform/node/index.js'
import { Folder, io, ours, theirs } from './tools.js'

/** `compact`, an addition: the oracle finds the same contents and nothing wrong in what it makes. */
const folder = new Folder()
afterAll(() => folder.remove())

/** An image with much that it does not need any more. */
function bloated(name: string, options: string, ...more: string[]): string {
  const cwd = folder.sub(name)
  expect(theirs(cwd, 'create', '-q', '-f', 'qcow2', ...more, '-o', options, 'a', '16M').status).toBe(0)
  io(cwd, 'a', 'write -P 1 0 8M', 'write -P 2 8M 1M', 'write -P 0 4M 4M', 'write -P 3 1M 64k')
  io(cwd, 'a', 'discard 0 1M')
  expect(theirs(cwd, 'convert', '-O', 'raw', 'a', 'before').status).toBe(0)
  return cwd
}

function occupied(cwd: string, name: string): number {
  return fs.statSync(path.join(cwd, name)).blocks * 512
}

function same(cwd: string): void {
  expect(theirs(cwd, 'check', 'a').stdout).toContain('No errors were found on the image.')
  expect(theirs(cwd, 'compare', '-f', 'qcow2', '-F', 'raw', 'a', 'before').stdout).toBe(
    'Images are identical.\n',
  )
}

test('in place: contents, properties, bitmaps, permissions and links stay', async () => {
  const options = 'cluster_size=32k,refcount_bits=8,lazy_refcounts=on,extended_l2=on'
  const cwd = bloated('plain', options)
  theirs(cwd, 'bitmap', '--add', 'a', 'b0')
  fs.chmodSync(path.join(cwd, 'a'), 0o640)
  fs.symlinkSync('a', path.join(cwd, 'link'))
  const before = occupied(cwd, 'a')
  const info = JSON.parse(theirs(cwd, 'info', '--output=json', 'a').stdout)
  const said = await ours(cwd, 'compact', '--output=json', 'link')
  expect(said.stderr).toBe('')
  expect(JSON.parse(said.stdout)).toEqual({ before, after: occupied(cwd, 'a'), compacted: true })
  expect(occupied(cwd, 'a')).toBeLessThan(4.5 * 2 ** 20)
  same(cwd)
  const now = JSON.parse(theirs(cwd, 'info', '--output=json', 'a').stdout)
  expect(now['format-specific']).toEqual(info['format-specific'])
  expect(fs.statSync(path.join(cwd, 'a')).mode & 0o777).toBe(0o640)
  expect(fs.lstatSync(path.join(cwd, 'link')).isSymbolicLink()).toBe(true)
  expect((await ours(cwd, 'compact', 'a')).stdout).toMatch(/^Image is compact already: \d+ bytes\.\n$/)
  expect(fs.readdirSync(cwd).sort()).toEqual(['a', 'before', 'link'])
})

test('the backing file stays, and nothing of it is copied', async () => {
  const cwd = folder.sub('chain')
  theirs(cwd, 'create', '-q', '-f', 'qcow2', 'base', '16M')
  io(cwd, 'base', 'write -P 9 0 16M')
  theirs(cwd, 'create', '-q', '-f', 'qcow2', '-b', 'base', '-F', 'qcow2', 'a')
  io(cwd, 'a', 'write -P 1 1M 4M', 'write -z 8M 64k')
  io(cwd, 'a', 'discard 2M 2M')
  theirs(cwd, 'convert', '-O', 'raw', 'a', 'before')
  expect((await ours(cwd, 'compact', '-q', 'a')).stderr).toBe('')
  expect(occupied(cwd, 'a')).toBeLessThan(3 << 20)
  same(cwd)
  expect(theirs(cwd, 'info', 'a').stdout).toContain('backing file: base\nbacking file format: qcow2\n')
})

test('beside, compressed', async () => {
  const cwd = bloated('beside', 'compression_type=zstd')
  const before = fs.readFileSync(path.join(cwd, 'a'))
  expect((await ours(cwd, 'compact', '-c', 'a', 'small')).stdout).toMatch(/^Image compacted: /)
  expect(fs.readFileSync(path.join(cwd, 'a')).equals(before)).toBe(true)
  expect(theirs(cwd, 'compare', 'a', 'small').stdout).toBe('Images are identical.\n')
  expect(occupied(cwd, 'small')).toBeLessThan(1 << 20)
  expect((await ours(cwd, 'compact', 'a', 'small')).stderr).toBe(
    "qemu-img: Could not create 'small': File exists\n",
  )
})

test('what is refused leaves everything as it is', async () => {
  const cwd = bloated('refused', 'compat=1.1')
  const refusal = async (name = 'a') => {
    const listed = fs.readdirSync(cwd)
    const bytes = fs.readFileSync(path.join(cwd, name))
    const { status, stderr } = await ours(cwd, 'compact', name)
    expect(fs.readFileSync(path.join(cwd, name)).equals(bytes)).toBe(true)
    expect([status, fs.readdirSync(cwd)]).toEqual([1, listed])
    return stderr
  }
  expect(await refusal('before')).toBe("qemu-img: Images of format 'raw' cannot be made compact\n")
  theirs(cwd, 'snapshot', '-c', 's', 'a')
  expect(await refusal()).toBe(
    "qemu-img: Image 'a' has 1 internal snapshot, which would be lost: " +
      'delete them first, or convert each with -l\n',
  )
  theirs(cwd, 'create', '-q', '-f', 'qcow2', '-o', 'data_file=d', 'e', '1M')
  expect(await refusal('e')).toContain('is in another file')
  theirs(cwd, 'snapshot', '-d', 's', 'a')
  const stop = new AbortController()
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  const listed = fs.readdirSync(cwd)
  const work = compactImage(layer, {
    image: path.join(cwd, 'a'),
    signal: stop.signal,
    progress: () => stop.abort(),
  })
  await expect(work).rejects.toMatchObject({ code: 'ECANCELED' })
  expect(fs.readdirSync(cwd)).toEqual(listed)
  same(cwd)
})
