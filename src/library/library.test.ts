import { describe, expect, test } from 'vitest'
import { allDrivers } from '../all-drivers.js'
import { isBlockError } from '../errors/index.js'
import { createBlockLayer, denyImplicitFiles } from '../graph/index.js'
import { defineOptions } from '../options/index.js'
import { createNodeHost } from '../platform/node/index.js'
import { MemoryHost } from '../testing/index.js'
import { bindLibrary } from './library.js'

const MiB = 1048576

const schemas = {
  raw: defineOptions({ size: { type: 'size' } }),
  qcow2: defineOptions({
    cluster_size: { type: 'size' },
    lazy_refcounts: { type: 'bool' },
    compression_type: { type: 'enum', values: ['zlib', 'zstd'] },
  }),
}

function setUp() {
  const host = new MemoryHost({ codecs: createNodeHost().codecs })
  const layer = createBlockLayer({ host, drivers: allDrivers })
  return { host, layer, library: bindLibrary(() => layer, schemas) }
}

function pattern(bytes: number, seed: number): Uint8Array {
  return new Uint8Array(bytes).map((_, i) => (i * seed + (i >> 8)) & 255)
}

async function failure(run: () => unknown): Promise<{ code: string; message: string }> {
  try {
    await run()
  } catch (error) {
    if (isBlockError(error)) {
      return { code: error.code, message: error.message }
    }
    throw error
  }
  throw new Error('expected a failure')
}

describe('an image', () => {
  test('is written and read at any offset, zeroed, grown and described', async () => {
    const { library } = setUp()
    await library.createImage({
      filename: '/a.qcow2',
      format: 'qcow2',
      size: 4 * MiB,
      options: { cluster_size: 4096 },
    })
    const image = await library.openImage('/a.qcow2', { readOnly: false, format: 'qcow2' })
    const data = pattern(10001, 3)
    await image.write(12345, data)
    await image.write(12345 + 5000, new Uint8Array(0))
    expect(await image.read(12345, data.length)).toEqual(data)
    const into = new Uint8Array(20)
    expect(await image.read(12345 + 7, into)).toBe(into)
    expect(into).toEqual(data.slice(7, 27))
    await image.writeZeroes(13000, 5000, { unmap: true })
    data.fill(0, 655, 5655)
    await image.discard(MiB, MiB)
    await image.flush()
    expect(await image.read(12345, data.length)).toEqual(data)
    await image.resize(6 * MiB)
    expect(image.size).toBe(6 * MiB)
    expect(await failure(() => image.resize(MiB))).toMatchObject({ code: 'EINVAL' })
    expect(await image.info()).toMatchObject({
      'virtual-size': 6 * MiB,
      format: 'qcow2',
      'cluster-size': 4096,
    })
    const mapped = []
    for await (const extent of image.map({ start: 8192, max: 16384 })) {
      mapped.push([extent.start, extent.length, extent.data])
    }
    expect(mapped).toEqual([
      [8192, 4096, false],
      [12288, 12288, true],
    ])
    expect((await image.check()).exitCode).toBe(0)
    expect([image.format, image.filename, image.readOnly]).toEqual(['qcow2', '/a.qcow2', false])
    await image.close()
    await image.close()
    expect((await failure(() => image.read(0, 1))).code).toBe('ENOMEDIUM')
  })

  test('refuses ranges outside, and writes when read-only', async () => {
    const { host, library } = setUp()
    host.put('/a.raw', pattern(MiB, 5))
    const image = await library.openImage('/a.raw', { format: 'raw' })
    for (const [offset, bytes] of [
      [MiB, 1],
      [MiB - 1, 2],
      [-1, 1],
      [0.5, 1],
      [0, -1],
      [Number.NaN, 1],
      [2 ** 53, 1],
    ] as const) {
      expect((await failure(() => image.read(offset, bytes))).code).toBe('EINVAL')
    }
    expect((await failure(() => image.write(0, new Uint8Array(1)))).code).toBe('EPERM')
    await image.close()
  })

  test('is closed by `await using`', async () => {
    const { host, layer, library } = setUp()
    host.put('/a.raw', new Uint8Array(512))
    {
      await using image = await library.openImage({
        driver: 'raw',
        file: { driver: 'file', filename: '/a.raw' },
      })
      expect(image.size).toBe(512)
      expect(layer.nodes.size).toBe(2)
    }
    expect(layer.nodes.size).toBe(0)
  })

  test('streams in both directions', async () => {
    const { host, library } = setUp()
    const data = pattern(3 * MiB + 512, 7)
    host.put('/a.raw', data)
    await library.createImage({ filename: '/b.qcow2', format: 'qcow2', size: 4 * MiB })
    const from = await library.openImage('/a.raw', { format: 'raw' })
    const to = await library.openImage('/b.qcow2', { readOnly: false })
    await from.readable({ start: 100 }).pipeTo(to.writable({ start: 3 }))
    expect(Buffer.compare(await to.read(3, data.length - 100), data.subarray(100))).toBe(0)
    expect(await to.read(0, 3)).toEqual(new Uint8Array(3))
    const short = from.readable({ start: 0, end: MiB }).pipeTo(to.writable({ start: 0, end: MiB - 1 }))
    expect((await failure(() => short)).code).toBe('ENOSPC')
    expect((await failure(() => from.readable({ start: 5, end: 4 }))).code).toBe('EINVAL')
    const controller = new AbortController()
    const reader = from.readable({ signal: controller.signal }).getReader()
    await reader.read()
    controller.abort()
    expect((await failure(() => reader.read())).code).toBe('ECANCELED')
    await from.close()
    await to.close()
  })

  test('opens files that it names only if that is allowed', async () => {
    const { host, layer, library } = setUp()
    host.put('/base', pattern(MiB, 3))
    await library.createImage({
      filename: '/top',
      format: 'qcow2',
      backing: { file: '/base', format: 'raw' },
    })
    const refused = await failure(() => library.openImage('/top', { implicitFiles: denyImplicitFiles }))
    expect(refused.code).toBe('EACCES')
    expect(refused.message).toContain("'/base'")
    const bare = await library.openImage('/top', { implicitFiles: denyImplicitFiles, noBacking: true })
    expect((await bare.read(0, 512)).every((byte) => byte === 0)).toBe(true)
    await bare.close()
    const whole = await library.openImage('/top')
    expect(await whole.read(0, 512)).toEqual(pattern(512, 3))
    await whole.close()
    expect(layer.nodes.size).toBe(0)
  })

  test('is not opened once aborted', async () => {
    const { host, layer, library } = setUp()
    host.put('/a.raw', new Uint8Array(512))
    const signal = AbortSignal.abort(new Error('enough'))
    expect(await failure(() => library.openImage('/a.raw', { signal }))).toEqual({
      code: 'ECANCELED',
      message: 'Operation canceled',
    })
    expect(layer.nodes.size).toBe(0)
  })
})

test('convert, compare, check, map, measure and info', async () => {
  const { host, library, layer } = setUp()
  host.put('/a.raw', pattern(2 * MiB, 11).fill(0, MiB, MiB + 300000))
  const { size } = await library.convertImage({ filename: '/a.raw', format: 'raw' }, '/b.qcow2', {
    format: 'qcow2',
    options: { cluster_size: 4096, compression_type: 'zstd' },
    compress: true,
  })
  expect(size).toBe(2 * MiB)
  expect(await library.compareImages({ filename: '/a.raw', format: 'raw' }, '/b.qcow2')).toEqual({
    identical: true,
    sizeMismatch: false,
  })
  expect(await library.checkImage('/b.qcow2')).toMatchObject({ exitCode: 0, repaired: false })
  let bytes = 0
  for await (const extent of library.mapImage('/b.qcow2')) {
    bytes += extent.length
  }
  expect(bytes).toBe(2 * MiB)
  expect(await library.measureImage('/b.qcow2', { format: 'raw' })).toMatchObject({ required: 2 * MiB })
  expect(await library.measureImage(MiB, { format: 'qcow2' })).toMatchObject({ required: 327680 })
  expect(await library.imageInfo('/b.qcow2')).toMatchObject([{ format: 'qcow2', 'cluster-size': 4096 }])
  expect(layer.nodes.size).toBe(0)
  // The schema is in the types: this does not compile without the comment.
  // @ts-expect-error no such option
  const options: Parameters<typeof library.createImage<'qcow2'>>[0]['options'] = { cluster_sized: 1 }
  const wrong = library.createImage({ filename: '/c', format: 'qcow2', size: MiB, options })
  expect((await failure(() => wrong)).message).toBe("Invalid parameter 'cluster_sized'")
})

test('dirty bitmaps tell what has changed since the last backup', async () => {
  const { library, layer } = setUp()
  await library.createImage({ filename: '/d', format: 'qcow2', size: MiB })
  await library.changeBitmap('/d', { name: 'daily', actions: [{ action: 'add' }], granularity: 4096 })
  const image = await library.openImage('/d', { readOnly: false })
  await image.write(10_000, pattern(100, 1))
  await image.addBitmap({ name: 'session' })
  expect((await failure(() => image.addBitmap({ name: 'session' }))).message).toBe(
    'Bitmap already exists: session',
  )
  await image.write(500_000, pattern(5000, 1))
  expect([...image.dirtyAreas('daily')]).toEqual([
    { offset: 8192, bytes: 4096 },
    { offset: 499_712, bytes: 8192 },
  ])
  expect([...image.dirtyAreas('session')]).toEqual([{ offset: 458_752, bytes: 65_536 }])
  image.clearBitmap('session')
  expect(image.bitmaps().map(({ name, count }) => [name, count])).toEqual([
    ['session', 0],
    ['daily', 12_288],
  ])
  await image.removeBitmap('session')
  await image.close()
  const again = await library.openImage('/d')
  expect([...again.dirtyAreas('daily')].length).toBe(2)
  expect((await failure(async () => again.clearBitmap('daily'))).message).toBe(
    "Bitmap 'daily' is readonly and cannot be modified",
  )
  expect((await failure(async () => [...again.dirtyAreas('session')])).message).toBe(
    "Dirty bitmap 'session' not found",
  )
  await again.close()
  const { size } = await library.convertImage('/d', '/e', { format: 'qcow2', bitmaps: true })
  expect(size).toBe(MiB)
  expect(await library.imageInfo('/e')).toMatchObject([
    { 'format-specific': { data: { bitmaps: [{ flags: ['auto'], name: 'daily', granularity: 4096 }] } } },
  ])
  await library.changeBitmap('/e', {
    name: 'copy',
    actions: [{ action: 'add' }, { action: 'merge', source: 'daily' }, { action: 'disable' }],
    sourceImage: '/d',
  })
  const copy = await library.openImage('/e')
  expect([...copy.dirtyAreas('copy')].map(({ offset }) => offset)).toEqual([0, 458_752])
  await copy.close()
  expect(layer.nodes.size).toBe(0)
})

test('commitImage and rebaseImage', async () => {
  const { host, library } = setUp()
  host.put('/base', new Uint8Array(65536).fill(1))
  host.put('/other', new Uint8Array(65536).fill(2))
  await library.createImage({ filename: '/top', format: 'qcow2', backing: { file: '/base', format: 'raw' } })
  {
    await using image = await library.openImage('/top', { readOnly: false })
    await image.write(0, new Uint8Array(512).fill(3))
  }
  expect(await library.commitImage('/top')).toEqual({ base: '/base', emptied: true })
  expect(host.contents('/base')?.bytes().subarray(0, 513)).toEqual(
    Uint8Array.from([...new Uint8Array(512).fill(3), 1]),
  )
  await library.rebaseImage('/top', { backing: '/other', backingFormat: 'raw' })
  {
    await using image = await library.openImage('/top')
    expect([...(await image.read(511, 2))]).toEqual([3, 1])
  }
  await expect(library.commitImage('/base')).rejects.toThrow('Image does not have a backing file')
  await expect(library.commitImage('/top', { base: '/base' })).rejects.toThrow(
    "Did not find '/base' in the backing chain of '/top'",
  )
})
