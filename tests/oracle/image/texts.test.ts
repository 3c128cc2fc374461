import fs from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isBlockError } from '../../../src/errors/index.js'
import {
  type ConvertOptions,
  type CreateImageOptions,
  checkImage,
  compareImages,
  compareMessage,
  convertImage,
  createImage,
  ddImage,
  measureImage,
  openImage,
  resizeImage,
  sizeMismatchWarning,
} from '../../../src/image/index.js'
import { haveQemu, Workshop } from './qemu.js'

const shop = new Workshop()

/** The message and hint that `run` fails with, as `qemu-img` prints them. */
async function failure(run: () => Promise<unknown>): Promise<string> {
  try {
    await run()
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
    return error.hint === undefined ? error.message : `${error.message}\n${error.hint}`
  }
  return 'succeeded'
}

/** What `qemu-img` prints on standard error, without its name. */
function complaint(args: readonly string[]): string {
  const { status, stderr } = shop.try(...args)
  return status === 0 ? 'succeeded' : stderr.trimEnd().replace(/^qemu-img: /, '')
}

describe.skipIf(!haveQemu)('texts', () => {
  const base = shop.path('base.qcow2')
  const plain = shop.path('plain.raw')
  const target = shop.path('target')

  beforeAll(() => {
    shop.img('create', '-q', '-f', 'qcow2', base, '1M')
    shop.img('create', '-q', '-f', 'raw', plain, '3M')
    fs.writeFileSync(shop.path('empty'), '')
    fs.writeFileSync(
      shop.path('broken.qcow2'),
      Buffer.concat([Buffer.from('QFI\xfb\0\0\0\x03', 'latin1'), Buffer.alloc(600)]),
    )
  })

  afterAll(async () => {
    await shop.clear()
  })

  const qcow2 = 'qcow2'
  const creations: readonly [
    readonly string[],
    Omit<CreateImageOptions, 'filename'> & { filename?: string },
  ][] = [
    [['-f', 'nope', target, '1M'], { format: 'nope', size: 1048576 }],
    [['-f', qcow2, '-o', 'bogus=1', target, '1M'], { format: qcow2, options: 'bogus=1', size: 1048576 }],
    [
      ['-f', qcow2, '-o', 'cluster_size=abc', target, '1M'],
      { format: qcow2, options: 'cluster_size=abc', size: 1048576 },
    ],
    [
      ['-f', qcow2, '-o', 'lazy_refcounts=maybe', target, '1M'],
      { format: qcow2, options: 'lazy_refcounts=maybe', size: 1048576 },
    ],
    [
      ['-f', qcow2, '-o', 'refcount_bits=x', target, '1M'],
      { format: qcow2, options: 'refcount_bits=x', size: 1048576 },
    ],
    [
      ['-f', qcow2, '-o', 'refcount_bits=3', target, '1M'],
      { format: qcow2, options: 'refcount_bits=3', size: 1048576 },
    ],
    [
      ['-f', qcow2, '-o', 'cluster_size=3k', target, '1M'],
      { format: qcow2, options: 'cluster_size=3k', size: 1048576 },
    ],
    [
      ['-f', qcow2, '-o', 'compat=0.10,refcount_bits=8', target, '1M'],
      { format: qcow2, options: 'compat=0.10,refcount_bits=8', size: 1048576 },
    ],
    [['-f', qcow2, '-o', 'compat=7', target, '1M'], { format: qcow2, options: 'compat=7', size: 1048576 }],
    [
      ['-f', qcow2, '-o', 'preallocation=some', target, '1M'],
      { format: qcow2, options: 'preallocation=some', size: 1048576 },
    ],
    [['-f', qcow2, '-o', 'size=1M', target, '2M'], { format: qcow2, options: 'size=1M', size: 2097152 }],
    [['-f', qcow2, target], { format: qcow2 }],
    [
      ['-f', qcow2, '-o', 'cluster_size=512', target, '2T'],
      { format: qcow2, options: 'cluster_size=512', size: 2 ** 41 },
    ],
    [
      ['-f', qcow2, '-b', target, '-F', qcow2, target],
      { format: qcow2, backing: { file: target, format: qcow2 } },
    ],
    [
      ['-f', qcow2, '-b', '', '-F', qcow2, target, '1M'],
      { format: qcow2, backing: { file: '', format: qcow2 }, size: 1048576 },
    ],
    [
      ['-f', qcow2, '-b', 'missing', '-F', qcow2, target],
      { format: qcow2, backing: { file: 'missing', format: qcow2 } },
    ],
    [['-f', qcow2, '-b', base, target], { format: qcow2, backing: { file: base } }],
    [['-f', qcow2, '-u', '-b', base, target], { format: qcow2, backing: { file: base, unsafe: true } }],
    [
      ['-f', qcow2, '-u', '-b', base, '-F', qcow2, target],
      { format: qcow2, backing: { file: base, format: qcow2, unsafe: true } },
    ],
    [
      ['-f', qcow2, '-b', base, '-F', 'nope', target],
      { format: qcow2, backing: { file: base, format: 'nope' } },
    ],
    [
      ['-f', qcow2, '-b', base, '-F', qcow2, '-o', 'preallocation=full', target],
      { format: qcow2, backing: { file: base, format: qcow2 }, options: 'preallocation=full' },
    ],
    [['-f', 'raw', '-b', base, '-F', qcow2, target], { backing: { file: base, format: qcow2 } }],
    [['-f', 'raw', '-F', qcow2, target, '1M'], { backing: { format: qcow2 }, size: 1048576 }],
    [['-f', qcow2, 'nosuch:x', '1M'], { format: qcow2, size: 1048576, filename: 'nosuch:x' }],
    [['-f', qcow2, '/nowhere/x', '1M'], { format: qcow2, size: 1048576, filename: '/nowhere/x' }],
    [['-f', 'raw', '/nowhere/x', '1M'], { size: 1048576, filename: '/nowhere/x' }],
  ]

  test.each(creations)('create %j', async (args, options) => {
    const filename = options.filename ?? target
    const expected = complaint(['create', '-q', ...args])
    fs.rmSync(target, { force: true })
    const actual = await failure(() => createImage(shop.layer, { ...options, filename }))
    expect(`${filename}: ${actual}`).toBe(expected)
    expect(fs.existsSync(target)).toBe(false)
  })

  test.each([
    ['-f', 'raw', '1.5M'],
    ['-f', 'raw', '100'],
    ['-f', 'qcow2', '-o', 'cluster_size=4k,lazy_refcounts', '1M'],
    ['-f', 'qcow2', '-o', 'nolazy_refcounts,compat=v3,preallocation=metadata', '1M'],
    ['-f', 'qcow2', '-o', 'cluster_size=64k,cluster_size=8k', '1000'],
    ['-f', 'qcow2', '-b', base, '-F', 'qcow2'],
    ['-f', 'qcow2', '-o', `backing_file=${base},backing_fmt=qcow2`, '7M'],
    ['-f', 'qcow2', '-u', '-b', 'with,comma', '-F', 'raw', '5M'],
  ])('banner and bytes of create %j', async (...args) => {
    const size = /^[0-9.]+M?$/.test(args.at(-1) ?? '') ? args.at(-1) : undefined
    const flags = size === undefined ? args : args.slice(0, -1)
    const expected = shop.img('create', ...flags, target, ...(size === undefined ? [] : [size])).trimEnd()
    const theirs = fs.readFileSync(target)
    fs.rmSync(target)
    const after = (flag: string): string | undefined => {
      const at = args.indexOf(flag)
      return at < 0 ? undefined : args[at + 1]
    }
    const bytes =
      size === undefined ? undefined : size.endsWith('M') ? Number.parseFloat(size) * 1048576 : Number(size)
    const announced: string[] = []
    const { banner } = await createImage(shop.layer, {
      filename: target,
      format: after('-f'),
      options: after('-o'),
      size: bytes,
      backing: { file: after('-b'), format: after('-F'), unsafe: args.includes('-u') },
      announce: (line) => announced.push(line),
    })
    expect(banner).toBe(expected)
    expect(announced).toEqual([banner])
    expect(fs.readFileSync(target).equals(theirs)).toBe(true)
    fs.rmSync(target)
  })

  const from = (...sources: string[]): Pick<ConvertOptions, 'sources' | 'target'> => ({ sources, target })
  const conversions: readonly [readonly string[], ConvertOptions][] = [
    [['-c', '-C', base, target], { ...from(base), compress: true, copyOffload: true }],
    [['-C', '-S', '4k', base, target], { ...from(base), sparseSize: 4096, copyOffload: true }],
    [['--salvage', '-C', base, target], { ...from(base), salvage: true, copyOffload: true }],
    [
      ['-n', '-o', 'cluster_size=4k', base, plain],
      { ...from(base), target: plain, skipCreate: true, options: 'cluster_size=4k' },
    ],
    [['--target-is-zero', base, target], { ...from(base), targetIsZero: true }],
    [['-c', '-O', 'raw', base, target], { ...from(base), compress: true }],
    [['-O', 'nope', base, target], { ...from(base), format: 'nope' }],
    [
      ['-O', qcow2, '-B', base, '-F', qcow2, base, base, target],
      { ...from(base, base), format: qcow2, backing: { file: base, format: qcow2 } },
    ],
    [['-O', qcow2, '-B', base, base, target], { ...from(base), format: qcow2, backing: { file: base } }],
    [
      ['-O', 'raw', '-B', base, '-F', qcow2, base, target],
      { ...from(base), backing: { file: base, format: qcow2 } },
    ],
    [
      ['-c', '-O', qcow2, '-o', 'preallocation=full', base, target],
      { ...from(base), format: qcow2, compress: true, options: 'preallocation=full' },
    ],
    [['-n', '-O', 'raw', base, 'missing'], { ...from(base), target: 'missing', skipCreate: true }],
    [
      ['-n', '-O', 'raw', base, shop.path('empty')],
      { ...from(base), target: shop.path('empty'), skipCreate: true },
    ],
    [['-T', 'foo', base, target], { ...from(base), sourceCache: 'foo' }],
    [['-t', 'foo', base, target], { ...from(base), cache: 'foo' }],
    [['-m', '17', base, target], { ...from(base), parallel: 17 }],
    [['-S', '5', base, target], { ...from(base), sparseSize: 5 }],
    [['-S', '17M', base, target], { ...from(base), sparseSize: 17 * 1048576 }],
    [['-l', 'none', base, target], { ...from(base), snapshot: 'none' }],
    [
      ['-l', 'none', '-f', 'raw', plain, target],
      { sources: [{ filename: plain, format: 'raw' }], target, snapshot: 'none' },
    ],
    [['-l', 'none', base, base, target], { ...from(base, base), snapshot: 'none' }],
    [['-O', qcow2, '-o', 'bogus=1', base, target], { ...from(base), format: qcow2, options: 'bogus=1' }],
    [
      ['-O', qcow2, '-o', 'cluster_size=3k', base, target],
      { ...from(base), format: qcow2, options: 'cluster_size=3k' },
    ],
    [['-O', qcow2, base, '/nowhere/x'], { ...from(base), target: '/nowhere/x', format: qcow2 }],
    [['-O', 'raw', base, '/nowhere/x'], { ...from(base), target: '/nowhere/x' }],
    [
      ['-O', qcow2, '-B', 'missing', '-F', 'raw', base, target],
      { ...from(base), format: qcow2, backing: { file: 'missing', format: 'raw' } },
    ],
    [['missing', target], from('missing')],
    [[shop.path('broken.qcow2'), target], from(shop.path('broken.qcow2'))],
    [['-f', 'nope', base, target], { sources: [{ filename: base, format: 'nope' }], target }],
  ]

  test.each(conversions)('convert %j', async (args, options) => {
    const expected = complaint(['convert', ...args])
    fs.rmSync(target, { force: true })
    expect(await failure(() => convertImage(shop.layer, options))).toBe(expected)
    expect(fs.existsSync(target)).toBe(false)
    expect(fs.readdirSync(shop.folder).filter((name) => name.endsWith('.part'))).toEqual([])
  })

  test('measure', async () => {
    for (const [args, options] of [
      [['-O', 'nope', '--size', '1M'], { format: 'nope', size: 1048576 }],
      [['-O', qcow2, '-o', 'bogus=1', '--size', '1M'], { format: qcow2, options: 'bogus=1', size: 1048576 }],
      [
        ['-O', qcow2, '-o', 'cluster_size=5', '--size', '1M'],
        { format: qcow2, options: 'cluster_size=5', size: 1048576 },
      ],
    ] as const) {
      const expected = complaint(['measure', ...args]).split('\nqemu-img: Invalid options')[0]
      expect(await failure(() => measureImage(shop.layer, options))).toBe(expected)
    }
  })

  test('resize', async () => {
    const image = shop.path('resize.qcow2')
    shop.img('create', '-q', '-f', qcow2, image, '2M')
    for (const [size, options] of [
      ['1M', { size: 1048576 }],
      ['0', { size: 0 }],
      ['-2M', { size: 2097152, relative: 'shrink' }],
      ['-3M', { size: 3145728, relative: 'shrink' }],
      ['1000001', { size: 1000001, shrink: true }],
      ['+100', { size: 100, relative: 'grow' }],
      ['2M', { size: 2097152, preallocation: 'full' }],
    ] as const) {
      const flags =
        'preallocation' in options ? ['--preallocation=full'] : 'shrink' in options ? ['--shrink'] : []
      const expected = complaint(['resize', '-f', qcow2, ...flags, image, size]).split('\n')[0]
      const backend = await openImage(
        shop.layer,
        { filename: image, format: qcow2 },
        { write: true, resize: true },
      )
      expect(await failure(() => resizeImage(backend, options))).toBe(expected)
      expect(backend.length).toBe(2097152)
      await backend.close()
    }
  })

  test('check of a format without checks', async () => {
    const { status, stderr } = shop.try('check', '-f', 'raw', plain)
    expect(status).toBe(63)
    const image = await openImage(shop.layer, { filename: plain, format: 'raw' })
    expect(`qemu-img: ${await failure(() => checkImage(image))}\n`).toBe(stderr)
    await image.close()
  })

  test.each([
    ['equal', 3145728, [], 3145728, []],
    ['different', 3145728, [2097152 + 700], 3145728, []],
    ['different at once', 3145728, [0], 3145728, []],
    ['longer with zeroes', 3145728, [], 1048576, []],
    ['longer with data', 3145728, [3145000], 1048576, []],
    ['shorter', 1048576, [], 3145728, [2000000]],
  ] as const)('compare %s', async (_name, size1, data1, size2, data2) => {
    const make = (name: string, size: number, data: readonly number[]): string => {
      const path = shop.path(name)
      const bytes = Buffer.alloc(size)
      for (const at of data) {
        bytes[at] = 9
      }
      fs.writeFileSync(path, bytes)
      return path
    }
    const a = make('compare-a', size1, data1)
    const b = make('compare-b', size2, data2)
    for (const strict of [false, true]) {
      const { status, stdout } = shop.try(
        'compare',
        ...(strict ? ['-s'] : []),
        '-f',
        'raw',
        '-F',
        'raw',
        a,
        b,
      )
      const first = await openImage(shop.layer, { filename: a, format: 'raw' })
      const second = await openImage(shop.layer, { filename: b, format: 'raw' })
      const lines: string[] = []
      const result = await compareImages(first, second, {
        strict,
        onSizeMismatch: () => lines.push(sizeMismatchWarning),
      })
      lines.push(compareMessage(result))
      await first.close()
      await second.close()
      expect(`${lines.join('\n')}\n`).toBe(stdout)
      expect(result.identical ? 0 : 1).toBe(status)
    }
  })

  test.each([
    [[], {}],
    [['bs=1000', 'count=5'], { blockSize: 1000, count: 5 }],
    [['bs=64k', 'skip=3'], { blockSize: 65536, skip: 3 }],
    [['bs=64k', 'skip=3', 'count=7'], { blockSize: 65536, skip: 3, count: 7 }],
    [['bs=1M', 'skip=9'], { blockSize: 1048576, skip: 9 }],
  ] as const)('dd %j', async (args, options) => {
    const source = shop.path('dd-source')
    fs.writeFileSync(
      source,
      Buffer.from(Uint8Array.from({ length: 3145728 }, (_, i) => (i * 7 + (i >> 9)) & 255)),
    )
    for (const format of ['raw', 'qcow2']) {
      const { stderr } = shop.try(
        'dd',
        '-f',
        'raw',
        '-O',
        format,
        ...args,
        `if=${source}`,
        `of=${shop.path('dd-theirs')}`,
      )
      const warnings: string[] = []
      const { bytes } = await ddImage(shop.layer, {
        ...options,
        source: { filename: source, format: 'raw' },
        target: shop.path('dd-ours'),
        format,
        warn: (text) => warnings.push(text),
      })
      expect(warnings.map((text) => `qemu-img: ${text}\n`).join('')).toBe(stderr)
      expect(fs.readFileSync(shop.path('dd-ours')).equals(fs.readFileSync(shop.path('dd-theirs')))).toBe(true)
      expect(bytes).toBeLessThanOrEqual(3145728)
      fs.rmSync(shop.path('dd-ours'))
      fs.rmSync(shop.path('dd-theirs'))
    }
  })
})
