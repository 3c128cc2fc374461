import { describe, expect, test } from 'vitest'
import { Backend, type BlockLayer, createBlockLayer, createFile } from '../../../graph/index.js'
import { MemoryHost } from '../../../testing/index.js'
import { raw } from '../../format/raw/index.js'
import { file } from '../file/index.js'
import { hostDevice } from './index.js'

function setup(): { host: MemoryHost; layer: BlockLayer } {
  const host = new MemoryHost()
  host.put('/dev/sdx', new Uint8Array(8192).fill(7), 'block')
  host.put('/dev/small', new Uint8Array(100).fill(7), 'char')
  host.put('/regular', new Uint8Array(512))
  return { host, layer: createBlockLayer({ host, drivers: [raw, file, hostDevice] }) }
}

describe('choosing the driver', () => {
  test('devices are recognised by what they are, CD-ROMs by their name', () => {
    const { host } = setup()
    const score = (name: string): number | undefined => hostDevice.probeDevice?.(name, host)
    expect(score('/dev/sdx')).toBe(100)
    expect(score('/dev/small')).toBe(100)
    expect(score('/dev/cdrom')).toBe(50)
    expect(score('/dev/cdrom1')).toBe(50)
    expect(score('/regular')).toBe(0)
    expect(score('/missing')).toBe(0)
  })

  test('a device wins over the file driver, with or without a prefix', async () => {
    const { layer } = setup()
    for (const name of ['/dev/sdx', 'host_device:/dev/sdx']) {
      const node = await layer.open(name, { driver: 'raw' })
      expect([node.file?.driver?.name, node.filename, node.length]).toEqual(['host_device', '/dev/sdx', 8192])
      await layer.unref(node)
    }
  })

  test('anything else is refused', async () => {
    const { layer } = setup()
    await expect(layer.open('/regular', { driver: 'host_device' })).rejects.toThrow(
      "'host_device' driver requires '/regular' to be either a character or block device",
    )
  })

  test('a device that is set read-only is not opened for writing', async () => {
    const { host, layer } = setup()
    host.put('/sys/class/block/sdx/ro', Uint8Array.of(0x31, 0x0a))
    await expect(layer.open('/dev/sdx', { driver: 'host_device' }, { write: true })).rejects.toThrow(
      'The device is not writable: Permission denied',
    )
    const node = await layer.open('/dev/sdx', { driver: 'host_device' })
    await layer.unref(node)
    host.put('/sys/class/block/sdx/ro', Uint8Array.of(0x30, 0x0a))
    const writable = await layer.open('/dev/sdx', { driver: 'host_device' }, { write: true })
    await layer.unref(writable)
  })
})

describe('preparing a device as a target', () => {
  test('clears the first sector and nothing else', async () => {
    const { host, layer } = setup()
    await createFile(layer, '/dev/sdx', { size: 4096 })
    const bytes = host.contents('/dev/sdx')?.bytes() ?? new Uint8Array()
    expect(bytes).toHaveLength(8192)
    expect(bytes.subarray(0, 512).every((byte) => byte === 0)).toBe(true)
    expect(bytes.subarray(512).every((byte) => byte === 7)).toBe(true)
  })

  test('which must be large enough', async () => {
    const { host, layer } = setup()
    await expect(createFile(layer, '/dev/sdx', { size: 8193 })).rejects.toMatchObject({
      message: 'Cannot grow device files',
      code: 'EINVAL',
    })
    expect(host.contents('/dev/sdx')?.bytes()[0]).toBe(7)
  })

  test('and exist', async () => {
    const { layer } = setup()
    await expect(createFile(layer, 'host_device:/dev/none', { size: 512 })).rejects.toThrow(
      "Protocol driver 'host_device' does not support creating new images, so an existing image must be " +
        'selected as the target; however, opening the given target as an existing image failed: ' +
        "Could not open '/dev/none': No such file or directory",
    )
  })

  test('without preallocation', async () => {
    const { layer } = setup()
    await expect(createFile(layer, '/dev/sdx', { size: 512, preallocation: 'full' })).rejects.toThrow(
      "Unsupported preallocation mode 'full'",
    )
    await expect(createFile(layer, '/dev/sdx', { size: 512, preallocation: 'x' })).rejects.toThrow(
      'invalid parameter value: x',
    )
  })

  test('not while someone else writes it', async () => {
    const { layer } = setup()
    const backend = await Backend.open(layer, '/dev/sdx', { driver: 'raw' }, { write: true, noShare: true })
    await expect(createFile(layer, '/dev/sdx', { size: 512 })).rejects.toThrow('Failed to get "write" lock')
    await backend.close()
  })
})
