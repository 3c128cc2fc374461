import fs from 'node:fs'
import path from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import {
  contents,
  described,
  Folder,
  good,
  ioOptions,
  noise,
  ours,
  secrets,
  theirs,
  theirsMeasured,
  unpack,
} from './tools.js'

const folder = new Folder()
afterAll(() => folder.remove())

const full = process.env.BLOCKGRAPH_FULL_MATRIX !== undefined

const opened = (file: string, secret = 's'): string =>
  `driver=qcow2,file.filename=${file},encrypt.key-secret=${secret}`

const plain = (text: string): string => text.replace(/^[\w-]+: /gm, '')

const aes = 'encrypt.format=aes'
const luks = 'encrypt.format=luks,encrypt.iter-time=10'

const kinds = [
  aes,
  `${aes},compat=0.10,cluster_size=512`,
  'encryption=on,cluster_size=4k',
  luks,
  `${luks},compat=0.10,cluster_size=4k`,
  `${luks},cluster_size=2M,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.hash-alg=sha1`,
  `${luks},cluster_size=512,refcount_bits=1,encrypt.cipher-alg=aes-128,encrypt.ivgen-alg=plain`,
  `${luks},lazy_refcounts=on,encrypt.cipher-mode=ctr,encrypt.hash-alg=sha512`,
]

const writes = [
  'write -P 7 1000 70000',
  'write -P 9 2M 512',
  'write -P 3 3145217 511',
  'write -z 64k 8k',
  'write -z 2100000 300',
  'discard 128k 128k',
  'write -P 5 1M 300k',
  'write -P 6 1100000 100',
]

const create = (who: 'ours' | 'theirs', cwd: string, ...args: string[]) =>
  who === 'ours'
    ? ours(cwd, 'create', '-q', ...secrets, '-f', 'qcow2', ...args)
    : theirsMeasured(cwd, 'create', '-q', ...secrets, '-f', 'qcow2', ...args)

/** Ours says of an image what theirs says. */
async function expectSame(cwd: string, ...args: string[]): Promise<void> {
  const their = theirs(cwd, ...args)
  const our = await ours(cwd, ...args)
  expect([args, our.status, our.stdout, plain(our.stderr)]).toEqual([
    args,
    their.status,
    their.stdout,
    plain(their.stderr),
  ])
}

describe('images made here', () => {
  test.each(kinds)('%s', async (options) => {
    const cwd = folder.sub(`made ${options}`)
    good(await create('ours', cwd, '-o', `encrypt.key-secret=s,${options}`, 'a', '4M'))
    expect(theirs(cwd, 'check', ...secrets, '--image-opts', opened('a'))).toMatchObject({
      status: 0,
      stdout: expect.stringContaining('No errors were found on the image.'),
    })
    good(ioOptions(cwd, opened('a'), ...writes))
    const our = await contents('ours', cwd, opened('a'))
    expect(our.equals(await contents('theirs', cwd, opened('a')))).toBe(true)
    for (const command of ['info', 'check', 'map']) {
      const image = ['--image-opts', opened('a')]
      await expectSame(cwd, command, '--output=json', ...secrets, ...image)
      await expectSame(cwd, command, ...secrets, ...image)
    }
    await expectSame(cwd, 'info', 'a')
    await expectSame(cwd, 'info', '--output=json', 'a')
  })

  test.each([aes, luks])('written here: %s', async (options) => {
    const cwd = folder.sub(`written ${options}`)
    const data = noise(4 << 20, 7)
    data.fill(0, 1 << 20, 2 << 20)
    fs.writeFileSync(path.join(cwd, 'raw'), data)
    const target = ['-f', 'raw', '-O', 'qcow2', '-o', `encrypt.key-secret=t,${options}`]
    good(await ours(cwd, 'convert', ...secrets, ...target, 'raw', 'a'))
    expect((await contents('theirs', cwd, opened('a', 't'))).equals(data)).toBe(true)
    expect((await contents('ours', cwd, opened('a', 't'))).equals(data)).toBe(true)
    expect(theirs(cwd, 'check', ...secrets, '--image-opts', opened('a', 't')).status).toBe(0)
    // Nothing of the data stands in the file as it is.
    expect(fs.readFileSync(path.join(cwd, 'a')).includes(data.subarray(4096, 4112))).toBe(false)
  })
})

describe('images made by qemu-img', () => {
  test('one of 7.2', async () => {
    const cwd = folder.sub('golden')
    unpack('qcow2', path.join(cwd, 'a'))
    await expectSame(cwd, 'info', 'a')
    await expectSame(cwd, 'check', ...secrets, '--image-opts', opened('a'))
    const our = await contents('ours', cwd, opened('a'))
    expect(our.equals(await contents('theirs', cwd, opened('a')))).toBe(true)
    expect([our[999], our[1000], our[70999], our[204800], our[205311]]).toEqual([0, 7, 7, 9, 9])
    // A fresh image has the same layout: all but the LUKS header, and what was allocated since, is equal.
    const options = 'cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,cluster_size=4k'
    good(await create('ours', cwd, '-o', `${luks},encrypt.key-secret=s,encrypt.${options}`, 'b', '256k'))
    const [a, b] = ['a', 'b'].map((name) => fs.readFileSync(path.join(cwd, name)).subarray(0, 8192)) as [
      Buffer,
      Buffer,
    ]
    expect(b.equals(a)).toBe(true)
  })

  test.each(full ? [aes, luks] : [aes])('%s', async (options) => {
    const cwd = folder.sub(`theirs ${options}`)
    const args = ['-o', `encrypt.key-secret=t,cluster_size=4k,${options}`]
    good(await create('theirs', cwd, ...args, 'a', '3M'))
    good(await create('ours', cwd, ...args, 'b', '3M'))
    const [a, b] = ['a', 'b'].map((name) => fs.readFileSync(path.join(cwd, name)))
    // The same layout: only what is random differs, and that is in the LUKS header.
    expect(b?.length).toBe(a?.length)
    const header = options === aes ? (a?.length ?? 0) : 4096 * 4
    expect(b?.subarray(0, header).equals(a?.subarray(0, header) as Buffer)).toBe(true)
    const info = async (name: string) => {
      const { stdout } = await ours(cwd, 'info', '--output=json', name)
      return { ...(described(stdout) as Record<string, unknown>), filename: '', 'actual-size': 0 }
    }
    expect(await info('b')).toEqual(await info('a'))
    const data = noise(3 << 20, 5)
    fs.writeFileSync(path.join(cwd, 'raw'), data)
    const target = opened('a', 't')
    good(await ours(cwd, 'convert', ...secrets, '-n', '--target-image-opts', '-f', 'raw', 'raw', target))
    expect((await contents('theirs', cwd, target)).equals(data)).toBe(true)
    expect(theirs(cwd, 'check', ...secrets, '--image-opts', target).status).toBe(0)
  })
})

describe('chains', () => {
  test('layers with keys of their own', async () => {
    const cwd = folder.sub('chain')
    good(await create('ours', cwd, '-o', `encrypt.key-secret=s,${luks}`, 'base', '2M'))
    good(ioOptions(cwd, opened('base'), 'write -P 1 0 300000'))
    good(await create('ours', cwd, '-o', `encrypt.key-secret=t,${aes}`, '-b', 'base', '-F', 'qcow2', 'mid'))
    const mid = `${opened('mid', 't')},backing.encrypt.key-secret=s`
    good(ioOptions(cwd, mid, 'write -P 2 100000 1000'))
    good(await create('ours', cwd, '-b', 'mid', '-F', 'qcow2', 'top'))
    const top =
      'driver=qcow2,file.filename=top,backing.encrypt.key-secret=t,backing.backing.encrypt.key-secret=s'
    good(ioOptions(cwd, top, 'write -P 3 200000 700'))
    const our = await contents('ours', cwd, top)
    expect(our.equals(await contents('theirs', cwd, top))).toBe(true)
    expect([our[0], our[100500], our[200100], our[299999], our[300000]]).toEqual([1, 2, 3, 1, 0])
    await expectSame(cwd, 'info', '--backing-chain', '--output=json', 'top')
    await expectSame(cwd, 'map', '--output=json', ...secrets, '--image-opts', top)
    await expectSame(cwd, 'check', ...secrets, '--image-opts', mid)
  })

  test('resize, with a longer backing file below', async () => {
    const cwd = folder.sub('resize')
    good(await create('ours', cwd, '-o', `encrypt.key-secret=s,${luks}`, 'a', '1M'))
    good(ioOptions(cwd, opened('a'), 'write -P 1 0 1M'))
    fs.copyFileSync(path.join(cwd, 'a'), path.join(cwd, 'b'))
    for (const [size, how] of [
      ['1500k', 'off'],
      ['3M', 'metadata'],
      ['4M', 'falloc'],
      ['4194816', 'full'],
    ] as const) {
      const options = ['-q', ...secrets, `--preallocation=${how}`, '--image-opts']
      good(await ours(cwd, 'resize', ...options, opened('a'), size))
      good(theirs(cwd, 'resize', ...options, opened('b'), size))
      expect(theirs(cwd, 'check', ...secrets, '--image-opts', opened('a')).status).toBe(0)
      const [ourA, theirA] = [
        await contents('ours', cwd, opened('a')),
        await contents('theirs', cwd, opened('a')),
      ]
      expect(ourA.equals(theirA)).toBe(true)
      expect(ourA.subarray(0, 1 << 20).every((byte) => byte === 1)).toBe(true)
    }
  })
})

describe('texts', () => {
  const on = (options: string): string[] => ['create', '-f', 'qcow2', ...secrets, '-o', options, 'x', '1M']
  test.each([
    on('encryption=on'),
    on('encrypt.format=aes'),
    on('encrypt.format=luks'),
    on('encrypt.format=foo,encrypt.key-secret=s'),
    on('encrypt.key-secret=s'),
    on('encryption=on,encrypt.format=luks,encrypt.key-secret=s'),
    on('encrypt.format=luks,encrypt.key-secret=q'),
    on('encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=foo'),
    on('encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=3des'),
    on('encrypt.format=luks,encrypt.key-secret=s,encrypt.hash-alg=foo'),
    on('encrypt.format=aes,encrypt.key-secret=s,encrypt.cipher-alg=aes-256'),
    ['measure', '-O', 'qcow2', '--size', '10M', '-o', 'encrypt.format=luks'],
    ['measure', '-O', 'qcow2', '--size', '10M', '-o', 'encrypt.format=aes'],
    ['measure', '-O', 'qcow2', '--size', '10M', '-o', 'encrypt.format=foo'],
    ['check', 'luks'],
    ['check', 'aes'],
    ['resize', 'luks', '2M'],
    ['map', '--image-opts', opened('luks', 'q')],
    ['map', '--object', 'secret,id=s,data=wrong', '--image-opts', opened('luks')],
    ['map', ...secrets, '--image-opts', `${opened('luks')},encrypt.format=aes`],
    ['map', ...secrets, '--image-opts', `${opened('aes')},encrypt.format=luks`],
    ['map', ...secrets, '--image-opts', `${opened('luks')},encrypt.format=bad`],
    ['map', ...secrets, '--image-opts', `${opened('luks')},encrypt.foo=bad`],
    ['map', ...secrets, '--image-opts', 'driver=qcow2,file.filename=none,encrypt.format=luks'],
    ['info', ...secrets, '--image-opts', opened('luks')],
    ['convert', ...secrets, '-c', '-O', 'qcow2', '-o', `${luks},encrypt.key-secret=s`, 'none', 'z'],
  ])('%j', async (...args: string[]) => {
    const cwd = folder.sub('texts')
    if (!fs.existsSync(path.join(cwd, 'luks'))) {
      good(await create('ours', cwd, '-o', `encrypt.key-secret=s,${luks}`, 'luks', '1M'))
      good(await create('ours', cwd, '-o', `encrypt.key-secret=s,${aes}`, 'aes', '1M'))
      good(await create('ours', cwd, 'none', '1M'))
    }
    await expectSame(cwd, ...args)
  })

  test('no LUKS header: only described', async () => {
    const cwd = folder.sub('no header')
    good(await create('ours', cwd, '-o', `encrypt.key-secret=s,${luks}`, 'a', '1M'))
    const bytes = fs.readFileSync(path.join(cwd, 'a'))
    bytes.writeUInt32BE(1, 112)
    fs.writeFileSync(path.join(cwd, 'a'), bytes)
    await expectSame(cwd, 'map', ...secrets, '--output=json', '--image-opts', opened('a'))
    // Here qemu-img aborts.
    expect(JSON.parse(good(await ours(cwd, 'info', '--output=json', 'a')).stdout)).toMatchObject({
      encrypted: true,
      'format-specific': { data: { encrypt: { format: 'luks' } } },
    })
  })

  const header: [string, number, string][] = [
    ['crypt method', 32, '00000000'],
    ['crypt method', 32, '00000001'],
    ['crypt method', 32, '00000003'],
    ['offset', 120, '0000000000000200'],
    ['offset', 120, '0000000000000000'],
    ['offset', 120, '7fffffffffff0000'],
    ['offset', 120, '0000000100000000'],
    ['length', 128, '0000000000000000'],
    ['length', 128, '0000000000000250'],
    ['length', 128, '000000000000024f'],
    ['length', 128, 'ffffffffffffffff'],
  ]
  test.each(header)('broken %s at %i: %s', async (_, at, hex) => {
    const cwd = folder.sub('broken')
    if (!fs.existsSync(path.join(cwd, 'whole'))) {
      good(await create('ours', cwd, '-o', `encrypt.key-secret=s,${luks}`, 'whole', '1M'))
    }
    const bytes = fs.readFileSync(path.join(cwd, 'whole'))
    bytes.set(Buffer.from(hex, 'hex'), at)
    fs.writeFileSync(path.join(cwd, 'a'), bytes)
    await expectSame(cwd, 'info', '--output=json', 'a')
    await expectSame(cwd, 'map', ...secrets, '--output=json', '--image-opts', opened('a'))
  })
})
