import { describe, expect, test } from 'vitest'
import { allDrivers } from '../all-drivers.js'
import { type BlockLayer, createBlockLayer, createWithDriver } from '../graph/index.js'
import { BlockStatus } from '../io/index.js'
import { createNodeHost } from '../platform/node/index.js'
import { MemoryHost } from '../testing/index.js'
import { rebaseImage } from './rebase.js'

const cluster = 65536

function machine(): { layer: BlockLayer; host: MemoryHost } {
  const host = new MemoryHost({ codecs: createNodeHost().codecs })
  return { host, layer: createBlockLayer({ host, drivers: allDrivers }) }
}

async function overlay(
  layer: BlockLayer,
  path: string,
  backing: string,
  format: string,
  size: number,
): Promise<void> {
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, driver, path, { size, backing_file: backing, backing_fmt: format })
}

async function contents(layer: BlockLayer, path: string): Promise<Uint8Array> {
  const node = await layer.open(path, { driver: 'qcow2' })
  const buffer = new Uint8Array(node.length)
  await node.read(0, buffer.length, buffer, 0, 0)
  await layer.unref(node)
  return buffer
}

function bytes(...clusters: number[]): Uint8Array {
  const all = new Uint8Array(clusters.length * cluster)
  clusters.forEach((value, index) => {
    all.fill(value, index * cluster, (index + 1) * cluster)
  })
  return all
}

describe('rebaseImage', () => {
  test('with compression: whole clusters are copied, and only those that differ', async () => {
    const { layer, host } = machine()
    host.put('/old', bytes(1, 2, 3, 4))
    const fresh = bytes(1, 2, 3, 9)
    fresh[cluster + 700] = 7
    host.put('/new', fresh)
    await overlay(layer, '/top', '/old', 'raw', 6 * cluster)
    const before = await contents(layer, '/top')
    await rebaseImage(
      layer,
      { filename: '/top', format: 'qcow2' },
      { backing: '/new', backingFormat: 'raw', compress: true },
    )
    expect(Buffer.compare(await contents(layer, '/top'), before)).toBe(0)
    const node = await layer.open('/top', { driver: 'qcow2' })
    const seen: [boolean, boolean][] = []
    for (let at = 0; at < 4; at++) {
      const status = new BlockStatus()
      await node.status(at * cluster, cluster, 'allocation', status)
      seen.push([status.allocated, status.compressed])
    }
    expect(seen).toEqual([
      [false, false],
      [true, true],
      [false, false],
      [true, true],
    ])
    await layer.unref(node)
  })

  test('compression needs a format that can', async () => {
    const { layer, host } = machine()
    host.put('/raw', bytes(1))
    await expect(
      rebaseImage(layer, { filename: '/raw', format: 'raw' }, { unsafe: true, compress: true }),
    ).rejects.toThrow('Compression not supported for this file format')
  })

  test('to an image further down: what the images between hold is copied, nothing else', async () => {
    const { layer, host } = machine()
    host.put('/base', bytes(1, 2, 3, 4))
    await overlay(layer, '/middle', '/base', 'raw', 4 * cluster)
    const middle = await layer.open('/middle', { driver: 'qcow2' }, { write: true })
    await middle.write(cluster, cluster, bytes(5), 0, 0)
    await layer.unref(middle)
    await overlay(layer, '/top', '/middle', 'qcow2', 4 * cluster)
    const steps: number[] = []
    await rebaseImage(
      layer,
      { filename: '/top', format: 'qcow2' },
      { backing: '/base', backingFormat: 'raw', progress: (done) => steps.push(done) },
    )
    expect(Buffer.compare(await contents(layer, '/top'), bytes(1, 5, 3, 4))).toBe(0)
    const node = await layer.open('/top', { driver: 'qcow2' })
    expect(node.backing?.filename).toBe('/base')
    const status = new BlockStatus()
    await node.status(0, cluster, 'allocation', status)
    expect(status.allocated).toBe(false)
    await layer.unref(node)
    expect([steps.at(-1), steps.every((step, i) => i === 0 || step >= (steps[i - 1] ?? 0))]).toEqual([
      4 * cluster,
      true,
    ])
  })

  test('parts that are zero in one backing file or both', async () => {
    const { layer } = machine()
    const part = 32 * cluster
    const make = async (path: string, values: readonly number[]): Promise<void> => {
      const driver = layer.findFormat('qcow2')
      if (driver === undefined) {
        throw new Error('no qcow2')
      }
      await createWithDriver(layer, driver, path, { size: values.length * part })
      const node = await layer.open(path, { driver: 'qcow2' }, { write: true })
      for (const [index, value] of values.entries()) {
        if (value !== 0) {
          await node.write(index * part, part, new Uint8Array(part).fill(value), 0, 0)
        }
      }
      await layer.unref(node)
    }
    await make('/old', [1, 0, 2, 0, 3, 0])
    await make('/new', [0, 4, 2, 0, 5])
    await overlay(layer, '/top', '/old', 'qcow2', 6 * part)
    const before = await contents(layer, '/top')
    await rebaseImage(
      layer,
      { filename: '/top', format: 'qcow2' },
      { backing: '/new', backingFormat: 'qcow2' },
    )
    expect(Buffer.compare(await contents(layer, '/top'), before)).toBe(0)
    const node = await layer.open('/top', { driver: 'qcow2' })
    const copied: boolean[] = []
    for (let at = 0; at < 6; at++) {
      const status = new BlockStatus()
      await node.status(at * part, part, 'allocation', status)
      copied.push(status.allocated)
    }
    expect(copied).toEqual([true, true, false, false, true, false])
    await layer.unref(node)
  })

  test('an abort leaves the old backing file and the contents', async () => {
    const { layer, host } = machine()
    host.put('/old', bytes(1, 2, 3, 4))
    host.put('/new', bytes(5, 6, 7, 8))
    await overlay(layer, '/top', '/old', 'raw', 4 * cluster)
    const controller = new AbortController()
    controller.abort()
    await expect(
      rebaseImage(
        layer,
        { filename: '/top', format: 'qcow2' },
        { backing: '/new', backingFormat: 'raw', signal: controller.signal },
      ),
    ).rejects.toMatchObject({ code: 'ECANCELED' })
    expect(Buffer.compare(await contents(layer, '/top'), bytes(1, 2, 3, 4))).toBe(0)
    expect(layer.nodes.size).toBe(0)
  })
})
