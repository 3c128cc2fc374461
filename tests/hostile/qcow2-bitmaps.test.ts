import fc from 'fast-check'
import { beforeAll, expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { isBlockError } from '../../src/errors/index.js'
import {
  addDirtyBitmap,
  type BlockNode,
  checkNode,
  createBlockLayer,
  createWithDriver,
} from '../../src/graph/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { MemoryHost } from '../../src/testing/index.js'

/**
 * Images whose bitmaps somebody has tampered with: opening, checking, writing and closing either work
 * or fail with a BlockError, and take time and memory by the size of the file, not by what it claims.
 */
const path = '/image'
const codecs = createNodeHost().codecs
const clusterSize = 512
let pristine: Uint8Array
/** Where the extension's data, the directory and the tables stand. */
let extension: number
let directory: number
let tables: number[]

function layerOn(host: MemoryHost) {
  return createBlockLayer({ host, drivers: allDrivers })
}

beforeAll(async () => {
  const host = new MemoryHost({ codecs })
  const layer = layerOn(host)
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, driver, path, { size: 8 << 20, cluster_size: clusterSize })
  const node = await layer.open(path, { driver: 'qcow2' }, { write: true })
  for (const name of ['a', 'bb', 'ccc']) {
    await addDirtyBitmap(node, { name, granularity: 512, persistent: true })
  }
  await node.write(0, 700, new Uint8Array(700).fill(1), 0, 0)
  await node.write(5 << 20, 700, new Uint8Array(700).fill(1), 0, 0)
  await layer.unref(node)
  pristine = host.contents(path)?.bytes() ?? new Uint8Array(0)
  const view = new DataView(pristine.buffer)
  extension = 104
  while (view.getUint32(extension) !== 0x23852875) {
    extension += 4
  }
  extension += 8
  directory = Number(view.getBigUint64(extension + 16))
  tables = [0, 1, 2].map((index) => Number(view.getBigUint64(directory + index * 32)))
})

async function survives(step: () => unknown): Promise<void> {
  try {
    await step()
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
  }
}

async function abuse(contents: Uint8Array): Promise<string[]> {
  const start = process.cpuUsage()
  const host = new MemoryHost({ codecs })
  host.put(path, contents)
  const layer = layerOn(host)
  const found: string[] = []
  const visit = async (write: boolean, body: (node: BlockNode) => Promise<void>): Promise<void> => {
    const node = await layer.open(path, { driver: 'qcow2' }, { write })
    found.push(...[...node.dirtyBitmaps].map(({ name, status }) => `${name} ${status}`))
    await survives(() => body(node))
    await survives(() => layer.unref(node))
  }
  await survives(() =>
    visit(false, async (node) => void (await checkNode(node, { leaks: false, errors: false }))),
  )
  await survives(() =>
    visit(true, async (node) => await node.write(0, 512, new Uint8Array(512).fill(3), 0, 0)),
  )
  expect([...layer.nodes]).toEqual([])
  expect(host.contents(path)?.size).toBeLessThan(contents.length + (4 << 20))
  const used = process.cpuUsage(start)
  expect(used.user + used.system).toBeLessThan(2_000_000)
  return found
}

test('the untouched image is fine', async () => {
  expect(await abuse(pristine.slice())).toEqual([
    'a active',
    'bb active',
    'ccc active',
    'a active',
    'bb active',
    'ccc active',
  ])
})

test('any bytes in the extension, the directory and the tables', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.record({
          where: fc.nat(4),
          at: fc.nat(96),
          value: fc.oneof(fc.constantFrom(0, 1, 2, 0x40, 0x80, 0xff), fc.nat(255)),
          run: fc.integer({ min: 1, max: 8 }),
        }),
        { minLength: 1, maxLength: 5 },
      ),
      async (changes) => {
        const broken = pristine.slice()
        for (const { where, at, value, run } of changes) {
          const start = [extension, directory, ...tables][where] ?? 0
          const offset = start + (where === 0 ? at % 24 : at)
          broken.fill(value, offset, offset + run)
        }
        await abuse(broken)
      },
    ),
    { numRuns: Number(process.env.HOSTILE_RUNS ?? 250) },
  )
})

test('half a gigabyte of ones takes nothing to store and load', async () => {
  const host = new MemoryHost({ codecs })
  const layer = layerOn(host)
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, driver, path, { size: 2 ** 41 })
  let node = await layer.open(path, { driver: 'qcow2' }, { write: true })
  const bitmap = await addDirtyBitmap(node, { name: 'all', granularity: 512, persistent: true })
  bitmap.set(0, 2 ** 41)
  await layer.unref(node)
  for (const write of [true, false]) {
    node = await layer.open(path, { driver: 'qcow2' }, { write })
    expect(node.dirtyBitmaps.find('all')?.count).toBe(2 ** 41)
    await layer.unref(node)
  }
  expect(host.contents(path)?.size).toBeLessThan(2 << 20)
  expect(host.warnings).toEqual([])
})

test('a table that is not that of the disk is refused', async () => {
  const image = new Uint8Array(pristine.length + (8 << 20))
  image.set(pristine)
  const view = new DataView(image.buffer)
  const entries = 1 << 20
  view.setBigUint64(directory, BigInt(Math.ceil(pristine.length / clusterSize) * clusterSize))
  view.setUint32(directory + 8, entries)
  expect(await abuse(image)).toEqual([])
})

test('many bitmaps over the same table or the same clusters are refused', async () => {
  const count = 2000
  const place = Math.ceil(pristine.length / clusterSize) * clusterSize
  const image = new Uint8Array(place + count * 32)
  image.set(pristine)
  const view = new DataView(image.buffer)
  view.setUint32(extension, count)
  view.setBigUint64(extension + 8, BigInt(count * 32))
  view.setBigUint64(extension + 16, BigInt(place))
  for (let i = 0; i < count; i++) {
    image.copyWithin(place + i * 32, directory, directory + 32)
    view.setUint16(place + i * 32 + 18, 5)
    new TextEncoder().encodeInto(String(10000 + i), image.subarray(place + i * 32 + 24))
  }
  expect(await abuse(image)).toEqual([])
  const host = new MemoryHost({ codecs })
  host.put(path, image)
  await expect(layerOn(host).open(path, { driver: 'qcow2' })).rejects.toThrow(
    /Could not read bitmap.* from image.*: Invalid argument/,
  )
})
