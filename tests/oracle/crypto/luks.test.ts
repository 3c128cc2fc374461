import { spawnSync } from 'node:child_process'
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
  `driver=luks,file.filename=${file},key-secret=${secret}`

/** Ciphers that both know: every cipher, mode, generator and hash at least once. */
const sample = [
  'cipher-alg=aes-256,cipher-mode=xts',
  'cipher-alg=aes-128,cipher-mode=xts,ivgen-alg=plain,hash-alg=sha1',
  'cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha512',
  'cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=plain64,hash-alg=ripemd160',
  'cipher-alg=aes-128,cipher-mode=ctr,ivgen-alg=plain64,hash-alg=sha224',
  'cipher-alg=aes-192,cipher-mode=xts,hash-alg=sha384',
  'cipher-alg=aes-256,cipher-mode=ecb,ivgen-hash-alg=sha256',
]

// Not AES-192: on keys whose material is no whole number of sectors qemu-img aborts.
const all = ['128', '256'].flatMap((bits) =>
  ['xts', 'cbc', 'ctr', 'ecb'].flatMap((mode) =>
    ['plain', 'plain64', 'essiv'].flatMap((ivgen) =>
      ['sha1', 'sha256', 'sha512', 'ripemd160', 'md5'].map(
        (hash) => `cipher-alg=aes-${bits},cipher-mode=${mode},ivgen-alg=${ivgen},hash-alg=${hash}`,
      ),
    ),
  ),
)

const writes = ['write -P 7 1000 70000', 'write -P 9 2M 512', 'write -z 64k 8k', 'write -P 3 3145217 511']

describe('images made here', () => {
  test.each(full ? all : sample)('%s', async (options) => {
    const cwd = folder.sub(`made ${options}`)
    good(
      await ours(
        cwd,
        'create',
        '-q',
        ...secrets,
        '-f',
        'luks',
        '-o',
        `key-secret=s,iter-time=10,${options}`,
        'a',
        '3M',
      ),
    )
    good(ioOptions(cwd, opened('a'), ...writes))
    expect(
      (await contents('ours', cwd, opened('a'))).equals(await contents('theirs', cwd, opened('a'))),
    ).toBe(true)
    const info = ['info', '--output=json', 'a']
    expect((await ours(cwd, ...info)).stdout).toBe(theirs(cwd, ...info).stdout)
    expect((await ours(cwd, 'info', 'a')).stdout).toBe(theirs(cwd, 'info', 'a').stdout)
  })

  test('by convert, and back', async () => {
    const cwd = folder.sub('convert')
    const data = noise(5 << 20, 3)
    fs.writeFileSync(path.join(cwd, 'raw'), data)
    good(
      await ours(
        cwd,
        'convert',
        ...secrets,
        '-f',
        'raw',
        '-O',
        'luks',
        '-o',
        'key-secret=t,iter-time=10',
        'raw',
        'a',
      ),
    )
    expect((await contents('theirs', cwd, opened('a', 't'))).equals(data)).toBe(true)
    expect((await contents('ours', cwd, opened('a', 't'))).equals(data)).toBe(true)
  })

  test.each(['off', 'falloc', 'full'])('preallocation=%s', async (mode) => {
    const cwd = folder.sub(`preallocation ${mode}`)
    const args = [
      'create',
      '-q',
      ...secrets,
      '-f',
      'luks',
      '-o',
      `key-secret=s,iter-time=10,preallocation=${mode}`,
    ]
    good(await ours(cwd, ...args, 'a', '1M'))
    const { size, blocks } = fs.statSync(path.join(cwd, 'a'))
    expect(size).toBe(2068480 + (1 << 20))
    expect(blocks * 512 >= size).toBe(mode !== 'off')
    if (full) {
      good(theirsMeasured(cwd, ...args, 'b', '1M'))
      expect(fs.statSync(path.join(cwd, 'b')).size).toBe(size)
    }
  })
})

describe('images made by qemu-img', () => {
  test('one of 7.2', async () => {
    const cwd = folder.sub('golden')
    unpack('luks', path.join(cwd, 'a'))
    expect((await ours(cwd, 'info', 'a')).stdout).toBe(theirs(cwd, 'info', 'a').stdout)
    const our = await contents('ours', cwd, opened('a'))
    expect(our.equals(await contents('theirs', cwd, opened('a')))).toBe(true)
    expect([our[999], our[1000], our[70999], our[204800], our[205311]].slice(1)).toEqual([7, 7, 9, 9])
    const options = 'key-secret=s,iter-time=10,cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv'
    good(await ours(cwd, 'create', '-q', ...secrets, '-f', 'luks', '-o', options, 'b', '256k'))
    const info = (name: string) => {
      const {
        filename: _,
        'actual-size': __,
        ...rest
      } = described(theirs(cwd, 'info', '--output=json', name).stdout) as Record<string, unknown>
      return rest
    }
    expect(info('b')).toEqual(info('a'))
  })

  test.runIf(full).each(all)('%s', async (options) => {
    const cwd = folder.sub(`theirs ${options}`)
    const create = ['create', '-q', ...secrets, '-f', 'luks', '-o', `key-secret=t,iter-time=10,${options}`]
    good(theirsMeasured(cwd, ...create, 'a', '3M'))
    const data = noise(3 << 20, 5)
    fs.writeFileSync(path.join(cwd, 'raw'), data)
    const target = opened('a', 't')
    good(await ours(cwd, 'convert', ...secrets, '-n', '--target-image-opts', '-f', 'raw', 'raw', target))
    expect((await contents('theirs', cwd, target)).equals(data)).toBe(true)
    expect((await contents('ours', cwd, target)).equals(data)).toBe(true)
    good(await ours(cwd, ...create, 'b', '3M'))
    const info = (name: string) => ['info', '--output=json', name]
    const strip = (text: string, name: string) => ({
      ...(described(text) as Record<string, unknown>),
      filename: name,
      'actual-size': 0,
    })
    expect(strip((await ours(cwd, ...info('b'))).stdout, 'x')).toEqual(
      strip(theirs(cwd, ...info('a')).stdout, 'x'),
    )
  })
})

describe('commands', () => {
  test('map, check, measure, resize, compare', async () => {
    const cwd = folder.sub('commands')
    good(
      await ours(cwd, 'create', '-q', ...secrets, '-f', 'luks', '-o', 'key-secret=s,iter-time=10', 'a', '1M'),
    )
    fs.copyFileSync(path.join(cwd, 'a'), path.join(cwd, 'b'))
    const image = ['--image-opts', opened('a')]
    for (const args of [
      ['map', '--output=json', ...secrets, ...image],
      ['map', ...secrets, ...image],
      ['check', ...secrets, ...image],
      ['info', ...secrets, ...image],
      ['compare', ...secrets, ...image, opened('b')],
    ]) {
      const their = theirs(cwd, ...args)
      const our = await ours(cwd, ...args)
      const plain = (text: string) => text.replace(/^[\w-]+: /gm, '')
      expect([args, our.status, our.stdout, plain(our.stderr)]).toEqual([
        args,
        their.status,
        their.stdout,
        plain(their.stderr),
      ])
    }
    const measure = ['measure', ...secrets, '-O', 'luks', '-o', 'key-secret=s', '--size', '10M']
    expect((await ours(cwd, ...measure)).stdout).toBe(
      'required size: 12554240\nfully allocated size: 12554240\n',
    )
    if (full) {
      expect((await ours(cwd, ...measure)).stdout).toBe(theirsMeasured(cwd, ...measure).stdout)
    }
    good(await ours(cwd, 'resize', '-q', ...secrets, ...image, '2M'))
    good(theirs(cwd, 'resize', '-q', ...secrets, '--image-opts', opened('b'), '2M'))
    expect(fs.readFileSync(path.join(cwd, 'a')).equals(fs.readFileSync(path.join(cwd, 'b')))).toBe(true)
  })

  test.each([
    ['create', ['create', '-f', 'luks', 'x', '1M']],
    ['create', ['create', '-f', 'luks', '-o', 'key-secret=q', 'x', '1M']],
    ['create', ['create', '-f', 'luks', ...secrets, '-o', 'key-secret=s', 'x']],
    ...[
      'cipher-alg=des',
      'cipher-alg=3des',
      'cipher-alg=cast5-128',
      'cipher-alg=x',
      'cipher-mode=x',
      'hash-alg=x',
    ].map((options) => [
      'create',
      ['create', '-f', 'luks', ...secrets, '-o', `key-secret=s,${options}`, 'x', '1M'],
    ]),
    ...[
      'ivgen-alg=x',
      'ivgen-hash-alg=x',
      'ivgen-alg=essiv,ivgen-hash-alg=sha1',
      'preallocation=x',
      'bogus=1',
    ].map((options) => [
      'create',
      ['create', '-f', 'luks', ...secrets, '-o', `key-secret=s,${options}`, 'x', '1M'],
    ]),
    [
      'password with NUL',
      [
        'create',
        '-f',
        'luks',
        '--object',
        'secret,id=s,data=AAB=,format=base64',
        '-o',
        'key-secret=s',
        'x',
        '1M',
      ],
    ],
    ['measure', ['measure', '-O', 'luks', '--size', '1M']],
    ['open', ['dd', 'if=good', 'of=y']],
    ['open', ['dd', '--image-opts', `if=${opened('good', 'q')}`, 'of=y']],
    ['open', ['dd', '--object', 'secret,id=s,data=wrong', '--image-opts', `if=${opened('good')}`, 'of=y']],
    ['open', ['dd', ...secrets, '--image-opts', `if=${opened('good')},bogus=1`, 'of=y']],
    ['open', ['dd', ...secrets, '--image-opts', `if=${opened('raw')}`, 'of=y']],
    ['help', ['create', '-f', 'luks', '-o', 'help']],
  ] as [string, string[]][])('refusals: %s %j', async (_, args) => {
    const cwd = folder.sub('refusals')
    if (!fs.existsSync(path.join(cwd, 'good'))) {
      good(
        await ours(
          cwd,
          'create',
          '-q',
          ...secrets,
          '-f',
          'luks',
          '-o',
          'key-secret=s,iter-time=10',
          'good',
          '1M',
        ),
      )
      fs.writeFileSync(path.join(cwd, 'raw'), Buffer.alloc(65536))
    }
    const our = await ours(cwd, ...args)
    const their = theirsMeasured(cwd, ...args)
    const plain = (text: string) => text.replace(/^[\w-]+: /gm, '')
    expect([our.status, our.stdout, plain(our.stderr)]).toEqual([
      their.status,
      their.stdout,
      plain(their.stderr),
    ])
  })
})

describe('broken headers', () => {
  const fields: [string, number, string][] = [
    ['magic', 0, '00'],
    ['version', 6, '0002'],
    ['version', 6, 'ffff'],
    ['cipher name', 8, '61'.repeat(32)],
    ['cipher name', 8, '78797a00'],
    ['cipher name', 8, '64657300'],
    ['cipher mode', 40, '61'.repeat(32)],
    ['cipher mode', 40, '78747300'],
    ['cipher mode', 40, '7878782d706c61696e00'],
    ['cipher mode', 40, '7874732d78797a00'],
    ['cipher mode', 40, '7874732d706c61696e3a00'],
    ['cipher mode', 40, '7874732d706c61696e3a6d643900'],
    ['cipher mode', 40, '7874732d657373697600'],
    ['cipher mode', 40, '7874732d65737369763a7368613100'],
    ['hash', 72, '61'.repeat(32)],
    ['hash', 72, '61626300'],
    ['payload', 104, '00000000'],
    ['payload', 104, '00000007'],
    ['payload', 104, '00000008'],
    ['payload', 104, '00000fff'],
    ['payload', 104, 'ffffffff'],
    ['key bytes', 108, '00000000'],
    ['key bytes', 108, '00000020'],
    ['key bytes', 108, '0000003f'],
    ['key bytes', 108, '00000021'],
    ['key bytes', 108, '00000030'],
    ['key bytes', 108, '00000080'],
    ['iterations', 164, '00000000'],
    ['slot state', 208, '12345678'],
    ['slot state', 208 + 48 * 7, '00000000'],
    ['slot state', 208, '0000dead'],
    ['slot iterations', 212, '00000000'],
    ['slot iterations', 212 + 48, '00000000'],
    ['slot offset', 248, '00000000'],
    ['slot offset', 248, '00000007'],
    ['slot offset', 248 + 48 * 3, '00000100'],
    ['slot offset', 248 + 48 * 3, '00000008'],
    ['slot stripes', 252, '00000000'],
    ['slot stripes', 252, 'ffffffff'],
    ['slot stripes', 252 + 48 * 5, '00000fa1'],
  ]

  test.each(fields)('%s at %i: %s', async (_, at, hex) => {
    const cwd = folder.sub('broken')
    const whole = path.join(cwd, 'whole')
    if (!fs.existsSync(whole)) {
      good(
        await ours(
          cwd,
          'create',
          '-q',
          ...secrets,
          '-f',
          'luks',
          '-o',
          'key-secret=s,iter-time=10',
          'whole',
          '1M',
        ),
      )
    }
    const bytes = fs.readFileSync(whole)
    bytes.set(Buffer.from(hex, 'hex'), at)
    fs.writeFileSync(path.join(cwd, 'a'), bytes)
    for (const args of [
      ['info', '-f', 'luks', '--output=json', 'a'],
      ['map', ...secrets, '--output=json', '--image-opts', opened('a')],
    ]) {
      const our = await ours(cwd, ...args)
      const their = theirs(cwd, ...args)
      const plain = (text: string) => text.replace(/^[\w-]+: /gm, '')
      expect([our.status, our.stdout, plain(our.stderr)]).toEqual([
        their.status,
        their.stdout,
        plain(their.stderr),
      ])
    }
  })
})

test('a slot beyond everything is refused, although its end wraps around', async () => {
  const cwd = folder.sub('wrap')
  good(
    await ours(cwd, 'create', '-q', ...secrets, '-f', 'luks', '-o', 'key-secret=s,iter-time=10', 'a', '1M'),
  )
  const bytes = fs.readFileSync(path.join(cwd, 'a'))
  bytes.writeUInt32BE(0xffffffff, 248)
  fs.writeFileSync(path.join(cwd, 'a'), bytes)
  expect((await ours(cwd, 'info', '-f', 'luks', 'a')).stderr).toContain(
    'Keyslot 0 is overlapping with the encrypted payload',
  )
})

describe('cryptsetup', () => {
  const cryptsetup = (cwd: string, ...args: string[]) =>
    spawnSync('cryptsetup', args, { cwd, encoding: 'utf8', timeout: 60_000 })

  test('opens what is made here', async () => {
    const cwd = folder.sub('cryptsetup')
    fs.writeFileSync(path.join(cwd, 'password'), 'abc')
    fs.writeFileSync(path.join(cwd, 'other'), 'abd')
    for (const options of ['hash-alg=sha256', sample[2], 'cipher-alg=aes-192,cipher-mode=cbc']) {
      good(
        await ours(
          cwd,
          'create',
          '-q',
          ...secrets,
          '-f',
          'luks',
          '-o',
          `key-secret=s,iter-time=10,${options}`,
          'a',
          '1M',
        ),
      )
      const dump = cryptsetup(cwd, 'luksDump', 'a')
      expect(dump).toMatchObject({ status: 0, stdout: expect.stringContaining('Key Slot 0: ENABLED') })
      const open = ['open', '--test-passphrase', '--type', 'luks1', '--key-file']
      expect(cryptsetup(cwd, ...open, 'password', 'a')).toMatchObject({ status: 0, stderr: '' })
      expect(cryptsetup(cwd, ...open, 'other', 'a').status).toBe(2)
    }
  })

  test.each([
    ['aes-xts-plain64', '512', 'sha256'],
    ['aes-cbc-essiv:sha256', '256', 'sha1'],
    ['aes-xts-plain64', '256', 'sha512'],
    // A key whose material is no whole number of sectors, on which qemu-img aborts.
    ['aes-cbc-plain64', '192', 'sha256'],
  ])('makes what opens here: %s %s %s', async (cipher, bits, hash) => {
    const cwd = folder.sub(`format ${cipher} ${hash}`)
    fs.writeFileSync(path.join(cwd, 'password'), 'abc')
    fs.writeFileSync(path.join(cwd, 'a'), noise(4 << 20, 1))
    const format = [
      'luksFormat',
      '-q',
      '--type',
      'luks1',
      '--pbkdf-force-iterations',
      '1000',
      '--key-file',
      'password',
    ]
    const made = cryptsetup(cwd, ...format, '--cipher', cipher, '--key-size', bits, '--hash', hash, 'a')
    expect(made).toMatchObject({ status: 0 })
    const our = await contents('ours', cwd, opened('a'))
    expect(our.length).toBeGreaterThan(1 << 20)
    if (bits !== '192') {
      expect(our.equals(await contents('theirs', cwd, opened('a')))).toBe(true)
    }
    expect((await ours(cwd, 'info', 'a')).stdout).toBe(theirs(cwd, 'info', 'a').stdout)
  })
})
