import { statSync, unlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { expect, test } from 'vitest'
import {
  directoryOf,
  fullBackingFilename,
  isWindowsDrive,
  pathCombine,
  pathHasProtocol,
  pathIsAbsolute,
} from '../../src/graph/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { failure, memoryLayer } from './fixtures.js'

test('row 7: a name has a protocol iff a colon comes before any separator', () => {
  const cases: [string, boolean][] = [
    ['nbd:x', true],
    ['a/b:c', false],
    ['a:b/c', true],
    [':x', true],
    ['abc', false],
    ['', false],
    ['http://h/p', true],
    ['/a:b', false],
  ]
  for (const [path, expected] of cases) {
    expect(pathHasProtocol(path), path).toBe(expected)
  }
  for (const path of ['C:', 'C:\\x', 'C:x', '\\\\.\\PhysicalDrive0', '//./x', '\\a:b']) {
    expect(pathHasProtocol(path, 'win32'), path).toBe(false)
  }
  expect(pathHasProtocol('nbd:x', 'win32')).toBe(true)
})

test('row 8: absolute paths on both kinds of platform', () => {
  expect(pathIsAbsolute('/a')).toBe(true)
  expect(pathIsAbsolute('a')).toBe(false)
  expect(pathIsAbsolute('C:\\a')).toBe(false)
  for (const path of ['x:', 'c:\\a', 'c:a', '\\\\.\\x', '//./x', '/a', '\\a']) {
    expect(pathIsAbsolute(path, 'win32'), path).toBe(true)
  }
  expect(pathIsAbsolute('a', 'win32')).toBe(false)
  expect(isWindowsDrive('x:')).toBe(true)
  expect(isWindowsDrive('x:\\a')).toBe(false)
  expect(isWindowsDrive('\\\\.\\x')).toBe(true)
})

test('row 9: names are combined with the folder of their base', () => {
  expect(pathCombine('/d/a.img', 'b')).toBe('/d/b')
  expect(pathCombine('nbd:h:1', 'b')).toBe('nbd:b')
  expect(pathCombine('http://h/p/a', 'b')).toBe('http://h/p/b')
  expect(pathCombine('a.img', 'b')).toBe('b')
  expect(pathCombine('/d/a.img', '/abs')).toBe('/abs')
  expect(pathCombine('/d/a.img', 'nbd:x')).toBe('/d/nbd:x')
  expect(pathCombine('/d/a:b.img', 'x')).toBe('/d/x')
  expect(pathCombine('c:\\d\\a.img', 'x', 'win32')).toBe('c:\\d\\x')
})

test('row 10: backing names are taken as they are or seen from the image', async () => {
  expect(fullBackingFilename('/d/a', '')).toBe('')
  expect(fullBackingFilename('/d/a', 'nbd:x')).toBe('nbd:x')
  expect(fullBackingFilename('/d/a', '/b')).toBe('/b')
  expect(fullBackingFilename('/d/a', 'b')).toBe('/d/b')
  for (const backed of ['', 'json:{"driver":"raw"}']) {
    expect(await failure(() => fullBackingFilename(backed, 'b'))).toEqual({
      code: 'EINVAL',
      message: `Cannot use relative backing file names for '${backed}'`,
    })
  }
})

test('row 11: the base of relative names is the folder of the protocol node', async () => {
  const { layer, host } = memoryLayer()
  host.put('/dir/a.raw', new Uint8Array(512))
  const node = await layer.open(
    'json:{"driver":"raw","offset":0,"size":512,"file":{"driver":"file","filename":"/dir/a.raw"}}',
  )
  expect(directoryOf(node)).toBe('/dir/')
  await layer.unref(node)
  const nothing = await layer.open(undefined, { driver: 'null-co', 'read-zeroes': true })
  const result = await failure(() => directoryOf(nothing))
  expect([undefined, 'Cannot generate a base directory for null-co nodes']).toContain(result.message)
  await layer.unref(nothing)
})

test('row 12: temporary files are made in TMPDIR or /var/tmp, empty and private', () => {
  const files = createNodeHost().files
  const before = process.env.TMPDIR
  try {
    delete process.env.TMPDIR
    const path = files.createTemporary('vl')
    expect(path).toMatch(/^\/var\/tmp\/vl\.\w{6}$/)
    const stat = statSync(path)
    expect(stat.size).toBe(0)
    expect(stat.mode & 0o777).toBe(0o600)
    unlinkSync(path)
    process.env.TMPDIR = tmpdir()
    const other = files.createTemporary('vl')
    expect(other.startsWith(`${tmpdir()}/vl.`)).toBe(true)
    unlinkSync(other)
    process.env.TMPDIR = '/nonexistent-folder'
    expect(() => files.createTemporary('vl')).toThrow('No such file or directory')
  } finally {
    if (before === undefined) {
      delete process.env.TMPDIR
    } else {
      process.env.TMPDIR = before
    }
  }
})
