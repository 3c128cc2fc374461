import { describe, expect, test } from 'vitest'
import { blockError } from '../../src/errors/index.js'
import { type BlockDriver, createFile, createWithDriver } from '../../src/graph/index.js'
import { createImage } from '../../src/image/index.js'
import { failure, memoryLayer, toyFormat } from './fixtures.js'

function creator(name: string, run: () => void, more: Partial<BlockDriver> = {}): BlockDriver {
  return {
    ...toyFormat(name),
    createOptions: { size: { type: 'size' } },
    load: () => ({
      open: () => {
        throw new Error('not opened')
      },
      create: run,
    }),
    ...more,
  }
}

describe('creating with a driver', () => {
  test('row 20: without a callback, with an own text, and with only an errno', async () => {
    const { layer } = memoryLayer({
      drivers: [
        toyFormat('none'),
        creator('own', () => {
          throw blockError('EINVAL', 'my own text')
        }),
        creator('bare', () => {
          throw blockError('ENOSPC', 'No space left on device')
        }),
      ],
    })
    const create = (name: string) => {
      const driver = layer.findFormat(name)
      return driver === undefined ? undefined : createWithDriver(layer, driver, '/x', { size: 512 })
    }
    expect(await failure(() => create('none'))).toEqual({
      code: 'ENOTSUP',
      message: "Driver 'none' does not support image creation",
    })
    expect((await failure(() => create('own'))).message).toBe('my own text')
    expect((await failure(() => create('bare'))).message).toBe(
      'Could not create image: No space left on device',
    )
  })

  test('row 21: the protocol makes the file', async () => {
    const { layer, host } = memoryLayer()
    await createFile(layer, '/new', { size: 1024 })
    expect(host.contents('/new')?.size).toBe(1024)
    await createFile(layer, 'file:/other', { size: 512 })
    expect(host.contents('/other')?.size).toBe(512)
    expect((await failure(() => createFile(layer, 'null-co://', {}))).message).toBe(
      "Driver 'null-co' does not support image creation",
    )
    expect((await failure(() => createFile(layer, 'nosuch:x', {}))).message).toBe("Unknown protocol 'nosuch'")
  })
})

describe('creating an image', () => {
  test('row 22: unknown format, protocol, and what cannot create, in this order', async () => {
    const { layer } = memoryLayer({ drivers: [toyFormat('readonly')] })
    const text = async (format: string, filename: string) =>
      (await failure(() => createImage(layer, { filename, format, size: 512 }))).message
    expect(await text('nope', 'nosuch:x')).toBe("Unknown file format 'nope'")
    expect(await text('readonly', 'nosuch:x')).toBe("Unknown protocol 'nosuch'")
    expect(await text('readonly', '/x')).toBe("Format driver 'readonly' does not support image creation")
    expect(await text('raw', 'null-co://')).toBe("Protocol driver 'null-co' does not support image creation")
  })

  test('row 23: options are parsed over the size, and both sizes are too many', async () => {
    const { layer, host } = memoryLayer()
    const text = async (options: string, size?: number) =>
      (
        await failure(() =>
          createImage(layer, {
            filename: '/x',
            format: 'raw',
            options,
            ...(size === undefined ? {} : { size }),
          }),
        )
      ).message
    expect(await text('bogus=1', 512)).toBe("Invalid parameter 'bogus'")
    expect(await text('size=1M', 512)).toBe('The image size must be specified only once')
    expect(await text('size=x')).toMatch(/^Parameter 'size' expects a non-negative number below 2\^64/)
    await createImage(layer, { filename: '/x', format: 'raw', options: 'size=2k' })
    expect(host.contents('/x')?.size).toBe(2048)
  })

  test('row 24: formats without backing files', async () => {
    const { layer } = memoryLayer()
    const text = async (backing: { file?: string; format?: string }) =>
      (await failure(() => createImage(layer, { filename: '/x', format: 'raw', size: 512, backing }))).message
    expect(await text({ file: '/b' })).toBe("Backing file not supported for file format 'raw'")
    expect(await text({ format: 'raw' })).toBe("Backing file format not supported for file format 'raw'")
  })

  test('row 25: an image is not its own backing file, and an empty name is none', async () => {
    const { layer } = memoryLayer()
    const text = async (file: string) =>
      (
        await failure(() =>
          createImage(layer, {
            filename: '/x',
            format: 'qcow2',
            size: 512,
            backing: { file, format: 'raw' },
          }),
        )
      ).message
    expect(await text('/x')).toBe(
      'Error: Trying to create an image with the same filename as the backing file',
    )
    expect(await text('')).toBe('Expected backing file name, got empty string')
  })

  test('row 26: the size comes from the backing file, whose format must be named', async () => {
    const { layer, host } = memoryLayer()
    host.put('/d/base', new Uint8Array(3072))
    const created = await createImage(layer, {
      filename: '/d/x',
      format: 'qcow2',
      backing: { file: 'base', format: 'raw' },
    })
    expect(created.size).toBe(3072)
    expect((await failure(() => createImage(layer, { filename: '/y', format: 'qcow2' }))).message).toBe(
      'Image creation needs a size parameter',
    )
    const unnamed = await failure(() =>
      createImage(layer, { filename: '/d/y', format: 'qcow2', backing: { file: 'base' } }),
    )
    expect(unnamed.message).toBe('Backing file specified without backing format')
    const gone = await failure(() =>
      createImage(layer, {
        filename: '/d/y',
        format: 'qcow2',
        size: 512,
        backing: { file: 'gone', format: 'raw' },
      }),
    )
    expect(gone.message).toBe("Could not open '/d/gone': No such file or directory")
    await createImage(layer, {
      filename: '/d/z',
      format: 'qcow2',
      size: 512,
      backing: { file: 'gone', format: 'raw', unsafe: true },
    })
    expect(host.contents('/d/y')).toBeUndefined()
    expect(host.contents('/d/z')).toBeDefined()
  })

  test('row 27: the banner lists every option that has a value', async () => {
    const { layer } = memoryLayer()
    const { banner } = await createImage(layer, { filename: 'a.qcow2', format: 'qcow2', size: 64 << 20 })
    expect(banner).toBe(
      "Formatting 'a.qcow2', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib " +
        'size=67108864 lazy_refcounts=off refcount_bits=16',
    )
  })

  test('row 28: an image too large for its format says what would help', async () => {
    const { layer, host } = memoryLayer()
    const result = await failure(() =>
      createImage(layer, { filename: '/x', format: 'qcow2', options: 'cluster_size=512', size: 2 ** 50 }),
    )
    expect(result).toEqual({
      code: 'EFBIG',
      message: "The image size is too large for file format 'qcow2' (try using a larger cluster size)",
    })
    expect(host.contents('/x')).toBeUndefined()
  })
})
