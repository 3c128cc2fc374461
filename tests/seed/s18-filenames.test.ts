import { expect, test } from 'vitest'
import { createWithDriver, fullOpenOptions, refreshFilename } from '../../src/graph/index.js'
import { memoryLayer, toyFormat } from './fixtures.js'

function shown(name: string): unknown {
  expect(name.startsWith('json:')).toBe(true)
  return JSON.parse(name.slice(5))
}

test('row 118: only options that change the contents are kept, never the node name', async () => {
  const { layer, host } = memoryLayer()
  host.put('/a', new Uint8Array(2048))
  const node = await layer.open('/a', { driver: 'raw', offset: 512, 'node-name': 'n', 'detect-zeroes': 'on' })
  expect(shown(node.filename)).toEqual({
    driver: 'raw',
    offset: 512,
    file: { driver: 'file', filename: '/a' },
  })
  await layer.unref(node)
})

test("row 119: the name is the file's if opening that leads here", async () => {
  const { layer, host } = memoryLayer()
  host.put('/a', new Uint8Array(2048))
  const plain = await layer.open(undefined, { driver: 'raw', file: { driver: 'file', filename: '/a' } })
  expect([plain.exactFilename, plain.filename]).toEqual(['/a', '/a'])
  await layer.unref(plain)
  const qcow2 = layer.findFormat('qcow2')
  if (qcow2 === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, qcow2, '/over', { size: 2048, backing_file: '/a', backing_fmt: 'raw' })
  const normal = await layer.open('/over')
  expect(normal.filename).toBe('/over')
  await layer.unref(normal)
  const without = await layer.open('/over', { driver: 'qcow2', backing: null })
  expect(shown(without.filename)).toEqual({
    driver: 'qcow2',
    backing: null,
    file: { driver: 'file', filename: '/over' },
  })
  await layer.unref(without)
  host.put('/b', new Uint8Array(2048))
  const other = await layer.open('/over', {
    driver: 'qcow2',
    backing: { driver: 'raw', file: { driver: 'file', filename: '/b' } },
  })
  expect(shown(other.filename)).toEqual({
    driver: 'qcow2',
    file: { driver: 'file', filename: '/over' },
    backing: { driver: 'raw', file: { driver: 'file', filename: '/b' } },
  })
  await layer.unref(other)
  const hidden = await layer.open('/over', { driver: 'qcow2' }, { noBacking: true, noIo: true })
  expect(hidden.filename).toBe('/over')
  await layer.unref(hidden)
})

test('row 120: nodes without a file are named from their options, rebuilt each time', async () => {
  const { layer } = memoryLayer()
  const node = await layer.open(undefined, { driver: 'null-co', size: 512 })
  const first = Object.fromEntries(fullOpenOptions(node).entries())
  expect(first.driver).toBe('null-co')
  refreshFilename(node)
  expect(Object.fromEntries(fullOpenOptions(node).entries())).toEqual(first)
  await layer.unref(node)
})

test('row 121: without a plain name the name is json, cut with dots when too long', async () => {
  const { layer, host } = memoryLayer({
    drivers: [
      toyFormat('wordy', 0, {
        options: { note: { type: 'string' } },
        strongOptions: ['note'],
        load: async () => ({
          open: async (context) => {
            context.options.delete('note')
            return { length: 512, direct: { read: () => undefined }, close: () => undefined }
          },
        }),
      }),
    ],
  })
  host.put('/a', new Uint8Array(512))
  const short = await layer.open('/a', { driver: 'wordy', note: 'x' })
  expect(short.filename).toMatch(/^json:\{.*\}$/)
  expect(shown(short.filename)).toEqual({
    driver: 'wordy',
    note: 'x',
    file: { driver: 'file', filename: '/a' },
  })
  await layer.unref(short)
  const long = await layer.open('/a', { driver: 'wordy', note: 'x'.repeat(5000) })
  expect([long.filename.length <= 4096, long.filename.endsWith('...')]).toEqual([true, true])
  await layer.unref(long)
})
