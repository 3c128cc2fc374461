import { expect, test } from 'vitest'
import {
  type BlockDriver,
  findDeviceDriver,
  findProtocol,
  hasZeroInit,
  probeAll,
  probeBlockSizes,
} from '../../src/graph/index.js'
import { failure, memoryLayer, pattern, toyFormat } from './fixtures.js'

function toyDevice(name: string, score: number): BlockDriver {
  return { name, kind: 'protocol', options: {}, probeDevice: () => score, load: toyFormat('x').load }
}

test('row 13: the device driver with the highest score wins; char and block files score 100', () => {
  const { layer, host } = memoryLayer()
  host.put('/dev/sda', new Uint8Array(0), 'block')
  host.put('/dev/zero', new Uint8Array(0), 'char')
  expect(findDeviceDriver(layer, '/dev/sda')?.name).toBe('host_device')
  expect(findDeviceDriver(layer, '/dev/zero')?.name).toBe('host_device')
  expect(findDeviceDriver(layer, '/a')).toBeUndefined()
  const toys = memoryLayer({ drivers: [toyDevice('low', 10), toyDevice('high', 60), toyDevice('zero', 0)] })
  expect(findDeviceDriver(toys.layer, '/a')?.name).toBe('high')
})

test('row 14: device before prefix, prefix before file; unknown protocols are named', async () => {
  const { layer, host } = memoryLayer()
  host.put('/dev/disk:1', new Uint8Array(0), 'block')
  expect(findProtocol(layer, '/dev/disk:1', true).name).toBe('host_device')
  expect(findProtocol(layer, 'null-co://', true).name).toBe('null-co')
  expect(findProtocol(layer, 'null-co://', false).name).toBe('file')
  expect(findProtocol(layer, 'a/b:c', true).name).toBe('file')
  expect((await failure(() => findProtocol(layer, 'nosuch:foo', true))).message).toBe(
    "Unknown protocol 'nosuch'",
  )
  const long = 'x'.repeat(200)
  expect((await failure(() => findProtocol(layer, `${long}:foo`, true))).message).toBe(
    `Unknown protocol '${long.slice(0, 127)}'`,
  )
  expect((await failure(() => layer.open('nosuch:foo'))).message).toBe("Unknown protocol 'nosuch'")
})

test('row 15: the greatest score wins, raw only when nothing else matches', () => {
  const { layer } = memoryLayer()
  const qcow2 = new Uint8Array(512)
  qcow2.set([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3])
  expect(probeAll(layer, qcow2, 'x')?.name).toBe('qcow2')
  expect(probeAll(layer, new Uint8Array(512), 'x.qcow2')?.name).toBe('raw')
  expect(probeAll(layer, new Uint8Array(0), undefined)?.name).toBe('raw')
  const other = qcow2.slice()
  other[7] = 1
  expect(probeAll(layer, other, 'x')?.name).toBe('qcow')
  other[7] = 0
  expect(probeAll(layer, other, 'x')?.name).toBe('raw')
})

test('row 16: an empty file is raw without a read, a read error is reported', async () => {
  let reads = 0
  let broken = false
  const { layer, host } = memoryLayer({
    fault: (operation) => {
      if (operation.kind === 'read') {
        reads++
        return broken ? 'EIO' : undefined
      }
      return undefined
    },
  })
  host.put('/empty')
  const node = await layer.open('/empty')
  expect(node.driver?.name).toBe('raw')
  expect(reads).toBe(0)
  await layer.unref(node)
  host.put('/some', new Uint8Array(1024))
  broken = true
  expect(await failure(() => layer.open('/some'))).toEqual({
    code: 'EIO',
    message: 'Could not read image for determining its format: Input/output error',
  })
  const bare = memoryLayer()
  const withoutRaw = { ...bare.layer, drivers: [] }
  expect(probeAll(withoutRaw as never, new Uint8Array(512), 'x')).toBeUndefined()
})

test('row 17: a probed raw image may not be made to look like something else', async () => {
  const { layer, host } = memoryLayer()
  const file = host.put('/a', new Uint8Array(4096))
  const node = await layer.open('/a', {}, { write: true })
  expect(node.probed).toBe(true)
  expect(host.warnings.join('\n')).toBe(
    "WARNING: Image format was not specified for '/a' and probing guessed raw.\n" +
      '         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n' +
      "         Specify the 'raw' format explicitly to remove the restrictions.",
  )
  const magic = new Uint8Array(512)
  magic.set([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3])
  expect((await failure(() => node.write(0, 512, magic, 0, 0))).code).toBe('EPERM')
  expect(file.bytes().subarray(0, 8)).toEqual(new Uint8Array(8))
  await node.write(0, 512, pattern(512, 1), 0, 0)
  await node.write(512, 512, magic, 0, 0)
  await layer.unref(node)
  host.warnings.length = 0
  const explicit = await layer.open('/a', { driver: 'raw' }, { write: true })
  await explicit.write(0, 512, magic, 0, 0)
  expect(host.warnings).toEqual([])
  await layer.unref(explicit)
  host.put('/a', new Uint8Array(4096))
  const readOnly = await layer.open('/a')
  expect(host.warnings).toEqual([])
  await layer.unref(readOnly)
})

test('row 18: block sizes come from the driver or are not supported', async () => {
  const sizes = { logical: 512, physical: 4096 }
  const toy = toyFormat('sized')
  const { layer, host } = memoryLayer({
    drivers: [
      {
        ...toy,
        load: async () => {
          const module = await toy.load()
          return {
            open: async (context) => ({ ...(await module.open(context)), probeBlockSizes: () => sizes }),
          }
        },
      },
      toyFormat('unsized'),
    ],
  })
  host.put('/a', new Uint8Array(512))
  const sized = await layer.open('/a', { driver: 'sized' })
  expect(probeBlockSizes(sized)).toEqual(sizes)
  await layer.unref(sized)
  const unsized = await layer.open('/a', { driver: 'unsized' })
  expect((await failure(() => probeBlockSizes(unsized))).code).toBe('ENOTSUP')
  expect(hasZeroInit(unsized)).toBe(false)
  await layer.unref(unsized)
})

test('row 19: memory alignment is at least a page without a driver, else the merged limits', async () => {
  const { layer, host } = memoryLayer()
  host.put('/a', new Uint8Array(512))
  const node = await layer.open('/a', { driver: 'raw' })
  expect(node.limits.optMemAlignment).toBeGreaterThanOrEqual(4096)
  expect(node.limits.minMemAlignment).toBeGreaterThanOrEqual(1)
  await layer.unref(node)
  const direct = await layer.open(undefined, {
    driver: 'raw',
    file: { driver: 'file', filename: '/a', 'cache.direct': true },
  })
  expect(direct.file?.limits.requestAlignment).toBe(512)
  await layer.unref(direct)
})
