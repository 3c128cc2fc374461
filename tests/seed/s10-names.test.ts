import { expect, test } from 'vitest'
import { Backend, deviceName, deviceOrNodeName } from '../../src/graph/index.js'
import { failure, memoryLayer } from './fixtures.js'

const nothing = { driver: 'null-co', size: 512 }

test('row 83: names are generated or checked', async () => {
  const { layer } = memoryLayer()
  const generated = await layer.open(undefined, nothing)
  expect(generated.name).toMatch(/^#block\d+\d\d$/)
  const named = await layer.open(undefined, { ...nothing, 'node-name': 'a.b-c_1' })
  const refused = async (name: string) =>
    (await failure(() => layer.open(undefined, { ...nothing, 'node-name': name }))).message
  for (const name of ['', '1a', '#x', 'a b', 'ä']) {
    expect(await refused(name)).toBe(`Invalid node-name: '${name}'`)
  }
  expect(await refused('a.b-c_1')).toBe("Duplicate nodes with node-name='a.b-c_1'")
  expect(await refused('x'.repeat(32))).toBe('Node name too long')
  const device = new Backend(layer, { name: 'drive' })
  expect(await refused('drive')).toBe('node-name=drive is conflicting with a device id')
  const longest = await layer.open(undefined, { ...nothing, 'node-name': 'x'.repeat(31) })
  await device.close()
  for (const node of [generated, named, longest]) {
    await layer.unref(node)
  }
  expect(layer.findNode('a.b-c_1')).toBeUndefined()
})

test('row 84: nodes are found by exact name and iterated in creation order', async () => {
  const { layer } = memoryLayer()
  const nodes = []
  for (const name of ['n1', 'n2', 'n3']) {
    nodes.push(await layer.open(undefined, { ...nothing, 'node-name': name }))
  }
  expect(layer.findNode('n2')).toBe(nodes[1])
  expect(layer.findNode('N2')).toBeUndefined()
  expect([...layer.names.nodes()]).toEqual(nodes)
  for (const node of nodes) {
    await layer.unref(node)
  }
})

test('row 85: the list of named nodes is newest first', async () => {
  const { layer } = memoryLayer()
  const first = await layer.open(undefined, { ...nothing, 'node-name': 'n1' })
  const second = await layer.open(undefined, { ...nothing, 'node-name': 'n2' })
  expect(layer.names.list()).toEqual([second, first])
  await layer.unref(first)
  expect(layer.names.list()).toEqual([second])
  await layer.unref(second)
})

test('row 86: messages prefer the device name', async () => {
  const { layer } = memoryLayer()
  const node = await layer.open(undefined, { ...nothing, 'node-name': 'n' })
  expect([deviceName(node), deviceOrNodeName(node)]).toEqual(['', 'n'])
  const device = new Backend(layer, { name: 'drive' })
  await device.insert(node)
  expect([deviceName(node), deviceOrNodeName(node)]).toEqual(['drive', 'drive'])
  await device.close()
  await layer.unref(node)
})
