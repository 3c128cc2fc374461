import { expect, test } from 'vitest'
import type { OptionTree } from '../../src/options/index.js'
import { failure, memoryLayer, toyFormat } from './fixtures.js'

async function opened(
  name: string | undefined,
  options: OptionTree = {},
): Promise<{ format: string | undefined; protocol: string | undefined; file: string | undefined }> {
  const { layer, host } = memoryLayer()
  host.put('/a', new Uint8Array(4096))
  host.put('/rbd:h:1', new Uint8Array(4096))
  host.put('/json:x', new Uint8Array(4096))
  const node = await layer.open(name, options)
  try {
    return {
      format: node.driver?.name,
      protocol: node.file?.driver?.name,
      file: node.file?.filename,
    }
  } finally {
    await layer.unref(node)
  }
}

test('row 29: json names are objects, nested or flat', async () => {
  const expected = { format: 'raw', protocol: 'file', file: '/a' }
  expect(await opened('json:{"driver":"raw","file":{"driver":"file","filename":"/a"}}')).toEqual(expected)
  expect(await opened('json:{"driver":"raw","file.driver":"file","file.filename":"/a"}')).toEqual(expected)
  expect((await failure(() => opened('json:{"driver":'))).message).toMatch(
    /^Could not parse the JSON options: /,
  )
  expect((await failure(() => opened('json:[1]'))).message).toBe('Invalid JSON object given')
})

test('row 30: options given directly beat the json name', async () => {
  const name = 'json:{"driver":"qcow2","file":{"driver":"file","filename":"/a"}}'
  expect(await opened(name, { driver: 'raw' })).toEqual({ format: 'raw', protocol: 'file', file: '/a' })
})

test('row 31: an explicit driver decides between format and protocol', async () => {
  expect(await failure(() => opened('/a', { driver: 'nosuch' }))).toEqual({
    code: 'ENOENT',
    message: "Unknown driver 'nosuch'",
  })
  expect(await opened('/a', { driver: 'file' })).toEqual({
    format: 'file',
    protocol: undefined,
    file: undefined,
  })
  expect(await opened('/a', { driver: 'raw' })).toEqual({ format: 'raw', protocol: 'file', file: '/a' })
})

test('row 32: a positional name and a filename option exclude each other', async () => {
  expect(await failure(() => opened('/a', { driver: 'file', filename: '/a' }))).toEqual({
    code: 'EINVAL',
    message: "Can't specify 'file' and 'filename' options at the same time",
  })
})

test('row 33: a positional name is parsed for a protocol, a filename option is not', async () => {
  expect((await opened(undefined, { driver: 'raw', file: { filename: '/rbd:h:1' } })).file).toBe('/rbd:h:1')
  expect((await failure(() => opened('rbd:h:1'))).message).toBe("Unknown protocol 'rbd'")
  const literal = await opened(undefined, { driver: 'raw', file: { filename: 'rbd:h:1' } })
  expect(literal.protocol).toBe('file')
  expect((await failure(() => opened('json:{}'))).message).toBe('Must specify either driver or file')
  expect(
    (await failure(() => opened(undefined, { driver: 'raw', file: { 'read-only': true } }))).message,
  ).toBe('Must specify either driver or file')
})

test('row 34: drivers parse positional names; file: is stripped', async () => {
  expect((await opened('file:/a')).file).toBe('/a')
  expect((await opened('null-co://')).protocol).toBe('null-co')
  expect((await failure(() => opened('null-co:x'))).message).toBe(
    "The only allowed filename for this driver is 'null-co://'",
  )
})

test('row 35: drivers that need a file name say so', async () => {
  for (const options of [{ driver: 'file' }, { driver: 'file', filename: '' }]) {
    expect(await failure(() => opened(undefined, options))).toEqual({
      code: 'EINVAL',
      message: "The 'file' block driver requires a file name",
    })
  }
})

test('row 36: a child comes from a reference or an inline definition, or is asked for by name', async () => {
  const { layer, host } = memoryLayer()
  host.put('/a', new Uint8Array(512))
  const file = await layer.open(undefined, { driver: 'file', filename: '/a', 'node-name': 'below' })
  const node = await layer.open(undefined, { driver: 'raw', file: 'below' })
  expect(node.file).toBe(file)
  await layer.unref(node)
  await layer.unref(file)
  expect((await failure(() => layer.open(undefined, { driver: 'raw' }))).message).toBe(
    'A block device must be specified for "file"',
  )
})

test('row 37: a reference excludes a name and options, and takes a reference', async () => {
  const { layer, host } = memoryLayer()
  host.put('/a', new Uint8Array(512))
  const file = await layer.open(undefined, { driver: 'file', filename: '/a', 'node-name': 'below' })
  const text = 'Cannot reference an existing block device with additional options or a new filename'
  expect(
    await failure(() => layer.open(undefined, { driver: 'raw', file: 'below', 'file.locking': 'off' })),
  ).toEqual({
    code: 'EINVAL',
    message: text,
  })
  expect((await failure(() => layer.open('/a', { driver: 'raw', file: 'below' }))).message).toBe(text)
  expect(await failure(() => layer.open(undefined, { driver: 'raw', file: 'gone' }))).toEqual({
    code: 'ENODEV',
    message: "Cannot find device='gone' nor node-name='gone'",
  })
  expect(file.references).toBe(1)
  const node = await layer.open(undefined, { driver: 'raw', file: 'below' })
  expect(file.references).toBe(2)
  await layer.unref(node)
  expect(file.references).toBe(1)
  await layer.unref(file)
})

test('row 38: options nobody took are an error after everything was opened', async () => {
  expect(await failure(() => opened('/a', { driver: 'raw', bogus: 1 }))).toEqual({
    code: 'EINVAL',
    message: "Block format 'raw' does not support the option 'bogus'",
  })
  expect(await failure(() => opened('/a', { driver: 'raw', 'file.bogus': 1 }))).toEqual({
    code: 'EINVAL',
    message: "Block protocol 'file' doesn't support the option 'bogus'",
  })
})

test('row 39: without driver and file there is nothing to open', async () => {
  expect(await failure(() => opened(undefined, {}))).toEqual({
    code: 'EINVAL',
    message: 'Must specify either driver or file',
  })
})

test('row 40: every node takes the generic options and refuses bad values', async () => {
  const { layer, host } = memoryLayer({ drivers: [toyFormat('toy')] })
  host.put('/a', new Uint8Array(512))
  const node = await layer.open(
    '/a',
    {
      driver: 'raw',
      'node-name': 'top',
      'cache.direct': false,
      'cache.no-flush': true,
      'read-only': true,
      'auto-read-only': false,
      'detect-zeroes': 'unmap',
      'force-share': true,
      discard: 'unmap',
    },
    { write: true },
  )
  expect([
    node.name,
    node.noFlush,
    node.readOnly,
    node.detectZeroes,
    node.forceShare,
    node.unmapAllowed,
  ]).toEqual(['top', true, true, 'unmap', true, true])
  expect(node.file?.forceShare).toBe(true)
  await layer.unref(node)
  const bad: [OptionTree, string][] = [
    [{ 'read-only': 'maybe' }, "Parameter 'read-only' expects 'on' or 'off'"],
    [{ discard: 'perhaps' }, 'Invalid discard option'],
    [{ 'detect-zeroes': 'x' }, "Parameter 'detect-zeroes' does not accept value 'x'"],
    [
      { 'detect-zeroes': 'unmap' },
      'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap',
    ],
    [{ 'force-share': true, 'read-only': false }, 'force-share=on can only be used with read-only images'],
  ]
  for (const [options, message] of bad) {
    expect(
      (await failure(() => layer.open('/a', { driver: 'raw', ...options }, { write: true }))).message,
    ).toBe(message)
  }
  expect([...layer.nodes]).toEqual([])
})
