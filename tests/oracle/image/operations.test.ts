import fs from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  benchImage,
  checkImage,
  checkReport,
  collectImageInfo,
  convertFromSource,
  convertImage,
  convertToSink,
  mapImage,
  openImage,
} from '../../../src/image/index.js'
import { haveQemu, Workshop } from './qemu.js'

const shop = new Workshop()

describe.skipIf(!haveQemu)('operations', () => {
  const image = shop.path('image.qcow2')
  const raw = shop.path('raw')

  beforeAll(() => {
    shop.img('create', '-q', '-f', 'qcow2', image, '8M')
    shop.io(image, 'qcow2', ['write -P 1 0 1M', 'write -P 2 3M 100k', 'write -z 5M 64k'])
    const bytes = Buffer.alloc(6 * 1048576 + 512, 3)
    bytes.fill(0, 1048576, 3145728)
    fs.writeFileSync(raw, bytes)
  })

  afterAll(async () => {
    await shop.clear()
  })

  test('info of an image with snapshots and bitmaps, and of its chain', async () => {
    const middle = shop.path('middle.qcow2')
    const top = shop.path('top.qcow2')
    shop.img('create', '-q', '-f', 'qcow2', '-b', 'image.qcow2', '-F', 'qcow2', middle)
    shop.img('snapshot', '-c', 'first', middle)
    shop.img('snapshot', '-c', 'second one', middle)
    shop.img('bitmap', '--add', middle, 'some')
    shop.img('bitmap', '--add', '--disable', '-g', '4k', middle, 'other')
    shop.img(
      'create',
      '-q',
      '-f',
      'qcow2',
      '-o',
      'lazy_refcounts=on,extended_l2=on',
      '-b',
      middle,
      '-F',
      'qcow2',
      top,
    )
    expect(await collectImageInfo(shop.layer, top, { backingChain: true })).toEqual(
      shop.json('info', '--backing-chain', top),
    )
    const [info] = await collectImageInfo(shop.layer, middle)
    expect(JSON.stringify(info)).toBe(JSON.stringify(shop.json('info', middle)))
  })

  test('a chain that bites its tail', async () => {
    const a = shop.path('loop-a.qcow2')
    const b = shop.path('loop-b.qcow2')
    shop.img('create', '-q', '-f', 'qcow2', '-u', '-b', b, '-F', 'qcow2', a, '1M')
    shop.img('create', '-q', '-f', 'qcow2', '-u', '-b', a, '-F', 'qcow2', b, '1M')
    const { stderr } = shop.try('info', '--backing-chain', a)
    await expect(collectImageInfo(shop.layer, a, { backingChain: true })).rejects.toThrow(
      stderr.trimEnd().replace('qemu-img: ', ''),
    )
    expect(await collectImageInfo(shop.layer, a)).toEqual([shop.json('info', a)])
  })

  test.each([
    [0, 100],
    [1000, 3 * 1048576],
    [1048576, undefined],
    [5 * 1048576 + 3, 5],
  ])('map from %i, %i bytes', async (start, max) => {
    const args = ['map', `--start-offset=${start}`, ...(max === undefined ? [] : [`--max-length=${max}`])]
    const backend = await openImage(shop.layer, image)
    const extents: unknown[] = []
    for await (const extent of mapImage(backend.node, { start, max })) {
      const { compressed: _compressed, filename: _filename, ...printed } = extent
      extents.push(printed)
    }
    await backend.close()
    expect(extents).toEqual(shop.json(...args, image))
  })

  test('an empty image has no extents', async () => {
    const empty = shop.path('empty')
    fs.writeFileSync(empty, '')
    const backend = await openImage(shop.layer, { filename: empty, format: 'raw' })
    for await (const extent of mapImage(backend.node)) {
      expect.unreachable(JSON.stringify(extent))
    }
    await backend.close()
  })

  test('check of a damaged image', async () => {
    const damaged = shop.path('damaged.qcow2')
    fs.copyFileSync(image, damaged)
    const file = fs.openSync(damaged, 'r+')
    // Refcounts of clusters nobody refers to, and none for one that is in use.
    for (const [cluster, count] of [
      [40, 1],
      [41, 1],
      [43, 2],
      [8, 0],
    ] as const) {
      fs.writeSync(file, Buffer.from([0, count]), 0, 2, 2 * 65536 + cluster * 2)
    }
    fs.ftruncateSync(file, 64 * 65536)
    fs.closeSync(file)
    const json = shop.try('check', '--output=json', damaged)
    const human = shop.try('check', damaged)
    const backend = await openImage(shop.layer, { filename: damaged, format: 'qcow2' }, { check: true })
    const heard: string[] = []
    const result = await checkImage(backend, { label: damaged, message: (line) => heard.push(line) })
    await backend.close()
    expect(JSON.stringify(result.check)).toBe(JSON.stringify(JSON.parse(json.stdout)))
    expect(`${checkReport(result.check).join('\n')}\n`).toBe(human.stdout)
    expect(`${heard.join('\n')}\n`).toBe(human.stderr)
    expect(result.messages).toEqual(heard)
    expect(result.exitCode).toBe(human.status)
    expect(result.repaired).toBe(false)
  })

  test.each([
    ['raw', undefined],
    ['qcow2', undefined],
    ['qcow2', 'cluster_size=4k'],
  ])('a stream of %s %s is what QEMU writes to a file', async (format, options) => {
    for (const [source, sourceFormat] of [
      [raw, 'raw'],
      [image, 'qcow2'],
    ] as const) {
      const chunks: Uint8Array[] = []
      await convertToSink(
        shop.layer,
        { write: async (chunk) => void chunks.push(chunk.slice()) },
        { sources: [{ filename: source, format: sourceFormat }], format, options },
      )
      const streamed = shop.path('streamed')
      fs.writeFileSync(streamed, Buffer.concat(chunks))
      const args = options === undefined ? [] : ['-o', options]
      shop.img('convert', '-f', sourceFormat, '-O', format, ...args, source, shop.path('theirs'))
      shop.img('compare', '-f', format, '-F', format, streamed, shop.path('theirs'))
      // A source whose map tells zeroes is believed; only otherwise are they searched for within clusters.
      if (source === raw || options === undefined) {
        expect(fs.readFileSync(streamed).equals(fs.readFileSync(shop.path('theirs')))).toBe(true)
      }
    }
  })

  test('a stream of raw bytes becomes an image that QEMU accepts', async () => {
    const target = shop.path('from-stream.qcow2')
    await convertFromSource(shop.layer, fs.createReadStream(raw), {
      sourceFormat: 'raw',
      target,
      format: 'qcow2',
    })
    shop.img('check', target)
    shop.img('compare', '-f', 'qcow2', '-F', 'raw', target, raw)
  })

  test('copy offloading copies', async () => {
    const target = shop.path('offloaded')
    const sources = [{ filename: raw, format: 'raw' }]
    await convertImage(shop.layer, { sources, target, copyOffload: true })
    expect(fs.readFileSync(target).equals(fs.readFileSync(raw))).toBe(true)
  })

  test('an image that somebody writes to is not overwritten', async () => {
    const writer = await openImage(shop.layer, { filename: image, format: 'qcow2' }, { write: true })
    const before = fs.readFileSync(image)
    expect(shop.try('info', image).stderr).toContain('Failed to get shared "write" lock')
    await expect(
      convertImage(shop.layer, {
        sources: [{ filename: raw, format: 'raw' }],
        target: image,
        format: 'qcow2',
      }),
    ).rejects.toThrow('lock')
    expect(fs.readFileSync(image).equals(before)).toBe(true)
    await writer.close()
  })

  test('bench', async () => {
    const backend = await openImage(shop.layer, { filename: raw, format: 'raw' }, { write: true })
    for (const options of [
      { count: 500, depth: 4, bufferSize: 4096 },
      { count: 300, depth: 1, bufferSize: 8192, step: 65536, offset: 4096 },
      { count: 200, depth: 8, write: true, pattern: 7, flushInterval: 16 },
      { count: 200, depth: 8, write: true, flushInterval: 16, noDrain: true },
    ]) {
      const { requests, seconds } = await benchImage(backend, options)
      expect(requests).toBe(options.count)
      expect(seconds).toBeGreaterThan(0)
    }
    const bytes = fs.readFileSync(raw)
    expect([bytes[0], bytes[200 * 4096 - 1], bytes[200 * 4096]]).toEqual([0, 0, 3])
    await expect(benchImage(backend, { offset: 1 << 30, count: 1 })).rejects.toThrow(
      'Failed request: Input/output error',
    )
    await expect(benchImage(backend, { flushInterval: 64 })).rejects.toThrow(
      '--flush-interval is only available in write tests',
    )
    await expect(benchImage(backend, { write: true, flushInterval: 3 })).rejects.toThrow(
      "Flush interval can't be smaller than depth",
    )
    await backend.close()
  })
})
