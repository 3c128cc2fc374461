import { expect, test } from 'vitest'
import { failure, memoryLayer, toyFormat } from './fixtures.js'

test('row 1: later registered drivers are asked first, and only a greater score replaces', async () => {
  const { layer, host } = memoryLayer({
    drivers: [toyFormat('one', 50), toyFormat('two', 50), toyFormat('three', 49)],
  })
  host.put('/a', new Uint8Array(4096))
  const node = await layer.open('/a')
  expect(node.driver?.name).toBe('two')
  await layer.unref(node)
  expect(() => memoryLayer({ drivers: [toyFormat('')] })).toThrow('needs a name')
})

test('row 2: drivers are found by exact, case-sensitive name; the first match wins', () => {
  const twin = toyFormat('raw')
  const { layer } = memoryLayer({ drivers: [twin] })
  expect(layer.findFormat('raw')).toBe(twin)
  expect(layer.findFormat('RAW')).toBeUndefined()
  expect(layer.findFormat('nope')).toBeUndefined()
})

test('row 3: the whitelist allows, allows read-only, or refuses', async () => {
  const { layer, host } = memoryLayer({ whitelist: { readWrite: ['file', 'raw'], readOnly: ['qcow2'] } })
  host.put('/a', new Uint8Array(4096))
  expect(layer.isWhitelisted(layer.findFormat('raw') ?? toyFormat('x'), false)).toBe(true)
  const open = (driver: string, write: boolean) => layer.open('/a', { driver }, { write })
  expect(await failure(() => open('qcow2', true))).toEqual({
    code: 'ENOTSUP',
    message: "Driver 'qcow2' can only be used for read-only devices",
  })
  expect((await failure(() => open('qcow2', false))).message).toContain('qcow2 format')
  expect(await failure(() => layer.open(undefined, { driver: 'null-co' }))).toEqual({
    code: 'ENOTSUP',
    message: "Driver 'null-co' is not whitelisted",
  })
  expect(
    memoryLayer({ whitelist: { readWrite: [], readOnly: [] } }).layer.isWhitelisted(toyFormat('x'), false),
  ).toBe(true)
})

test('row 4: format names are listed once each, sorted', () => {
  const { layer } = memoryLayer({ drivers: [toyFormat('zeta'), toyFormat('raw'), toyFormat('Alpha')] })
  const names = layer.formatNames()
  expect(names).toEqual([...names].sort())
  expect(new Set(names).size).toBe(names.length)
  expect(names[0]).toBe('Alpha')
  expect(names).toContain('qcow2')
})

test('row 5: a layer is ready when it is made, and drivers are loaded once, on first use', async () => {
  let loads = 0
  const lazy = toyFormat('lazy', 0)
  const { layer, host } = memoryLayer({
    drivers: [
      {
        ...lazy,
        load: () => {
          loads++
          return lazy.load()
        },
      },
    ],
  })
  host.put('/a', new Uint8Array(512))
  expect(loads).toBe(0)
  for (let i = 0; i < 2; i++) {
    await layer.unref(await layer.open('/a', { driver: 'lazy' }))
  }
  expect(loads).toBe(1)
})

test('row 6: a node tells its driver, a closed one has none', async () => {
  const { layer, host } = memoryLayer()
  host.put('/a', new Uint8Array(512))
  const node = await layer.open('/a', { driver: 'raw' })
  expect(node.driver?.name).toBe('raw')
  await layer.unref(node)
  expect(node.driver).toBeUndefined()
})
