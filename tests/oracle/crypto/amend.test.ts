import fs from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { allDrivers } from '../../../src/all-drivers.js'
import { amendEncryption } from '../../../src/drivers/format/qcow2/crypto-amend.js'
import { addSecret } from '../../../src/formatkit/crypto/index.js'
import { createBlockLayer } from '../../../src/graph/index.js'
import { createNodeHost } from '../../../src/platform/node/index.js'
import { Folder, good, ioOptions, ours, secrets, theirs } from './tools.js'

type Values = Record<string, string | number>

const full = process.env.BLOCKGRAPH_FULL_MATRIX !== undefined

const folder = new Folder()
const base = folder.sub('base')
afterAll(() => folder.remove())
beforeAll(async () => {
  good(
    await ours(base, 'create', '-q', ...secrets, '-f', 'luks', '-o', 'key-secret=s,iter-time=10', 'a', '64k'),
  )
})

/** A layer with the secrets that `tools.ts` gives to the tools. */
function newLayer() {
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  addSecret(layer, { id: 's', format: 'raw', data: 'abc' })
  addSecret(layer, { id: 't', format: 'raw', data: 'a longer passphrase ü' })
  return layer
}

/** Amends in this process; returns the error's text, and its hint on a second line. */
async function amendOurs(file: string, secret: string, options: Values, force: boolean): Promise<string> {
  const layer = newLayer()
  try {
    const node = await layer.open(
      undefined,
      { driver: 'luks', 'key-secret': secret, file: { driver: 'file', filename: file } },
      { write: true },
    )
    await node.state?.amend?.({ options, force, node })
    return ''
  } catch (error) {
    const { message, hint } = error as { message: string; hint?: string }
    return message + (hint === undefined ? '' : `\n${hint}`)
  } finally {
    await layer.closeAll()
  }
}

function amendTheirs(file: string, secret: string, options: Values, force: boolean): string {
  const list = Object.entries(options).map(([key, value]) => `${key}=${value}`)
  const image = `driver=luks,file.filename=${file},key-secret=${secret}`
  const args = [
    'amend',
    ...(force ? ['--force'] : []),
    ...secrets,
    '--image-opts',
    '-o',
    list.join(','),
    image,
  ]
  for (let tries = 0; tries < 40; tries++) {
    const { stderr } = theirs(folder.path, ...args)
    if (!stderr.includes('Unable to get accurate CPU usage')) {
      return stderr.replace(/^qemu-img: /gm, '').replace(/\n$/, '')
    }
  }
  throw new Error('qemu-img could not measure its speed')
}

/** Which of the eight slots open with which password, as `qemu-io` sees it, and which are active. */
function state(file: string): { slots: boolean[]; s: boolean; t: boolean } {
  const info = JSON.parse(theirs(folder.path, 'info', '-f', 'luks', '--output=json', file).stdout)
  const opens = (secret: string) =>
    ioOptions(folder.path, `driver=luks,file.filename=${file},key-secret=${secret}`, 'read 0 512').status ===
    0
  return {
    slots: info['format-specific'].data.slots.map((slot: { active: boolean }) => slot.active),
    s: opens('s'),
    t: opens('t'),
  }
}

interface Step {
  readonly options: Values
  readonly secret?: string
  readonly force?: boolean
}

const add = (more: Values = {}): Step => ({
  options: { state: 'active', 'new-secret': 't', 'iter-time': 10, ...more },
})
const erase = (more: Values, force = false): Step => ({ options: { state: 'inactive', ...more }, force })

const scenarios: [string, Step[]][] = [
  ['add, then erase the first by its number', [add(), erase({ keyslot: 0 })]],
  [
    'add at a place, erase by password',
    [add({ keyslot: 5 }), { ...erase({ 'old-secret': 's' }), secret: 't' }],
  ],
  ['the last one needs force', [erase({ keyslot: 0 }), erase({ keyslot: 0 }, true)]],
  [
    'all that match need force',
    [add({ 'new-secret': 's' }), erase({ 'old-secret': 's' }), erase({ 'old-secret': 's' }, true)],
  ],
  ['an active slot is not overwritten', [add({ keyslot: 0 }), { ...add({ keyslot: 0 }), force: true }]],
  [
    'wrong words',
    [
      add({ 'old-secret': 's' }),
      { options: { state: 'active' } },
      { options: { 'new-secret': 't' } },
      { options: { state: 'sleepy' } },
      add({ keyslot: 8 }),
      add({ keyslot: -1 }),
      add({ 'new-secret': 'q' }),
      erase({ keyslot: 8 }),
      erase({ keyslot: -1 }),
      erase({ keyslot: 3 }),
      erase({}),
      erase({ 'new-secret': 't' }),
      erase({ keyslot: 0, 'iter-time': 5 }),
      erase({ keyslot: 0, 'old-secret': 't' }),
      erase({ 'old-secret': 't' }),
    ],
  ],
]

describe('luks', () => {
  test.each(scenarios)('%s', async (_, steps) => {
    const [a, b] = ['ours', 'theirs'].map((name) => {
      const target = path.join(folder.path, name)
      fs.copyFileSync(path.join(base, 'a'), target)
      return target
    }) as [string, string]
    for (const { options, secret = 's', force = false } of steps) {
      const our = await amendOurs(a, secret, options, force)
      if (our === '' && options.state === 'active' && !full) {
        // qemu-img would have to measure its speed, which takes its time.
        fs.copyFileSync(a, b)
        expect(state(a)[options['new-secret'] === 't' ? 't' : 's']).toBe(true)
        continue
      }
      const their = amendTheirs(b, secret, options, force)
      expect([options, our]).toEqual([options, their])
      expect([options, state(a)]).toEqual([options, state(b)])
    }
  })

  test('all slots in use', async () => {
    const file = path.join(folder.path, 'full')
    fs.copyFileSync(path.join(base, 'a'), file)
    const { options } = add()
    for (let i = 1; i < 8; i++) {
      expect(await amendOurs(file, 's', options, false)).toBe('')
    }
    expect(await amendOurs(file, 't', options, false)).toBe("Can't add a keyslot - all keyslots are in use")
    expect(amendTheirs(file, 't', options, false)).toBe("Can't add a keyslot - all keyslots are in use")
    expect(state(file)).toEqual({ slots: new Array(8).fill(true), s: true, t: true })
  })
})

describe('qcow2', () => {
  test('key slots change, the data stays', async () => {
    const cwd = folder.sub('qcow2')
    const create = ['create', '-q', ...secrets, '-f', 'qcow2', '-o']
    good(
      await ours(cwd, ...create, 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10', 'a', '1M'),
    )
    const opened = (secret: string) => `driver=qcow2,file.filename=a,encrypt.key-secret=${secret}`
    good(ioOptions(cwd, opened('s'), 'write -P 77 5000 100000'))
    const layer = newLayer()
    const filename = path.join(cwd, 'a')
    const node = await layer.open(filename, { driver: 'qcow2', 'encrypt.key-secret': 's' }, { write: true })
    const meta = (node.state as unknown as { metadata: Parameters<typeof amendEncryption>[1] }).metadata
    const change = (options: Values) => amendEncryption(layer, meta, { options, force: false, node })
    await change({ 'encrypt.state': 'active', 'encrypt.new-secret': 't', 'encrypt.iter-time': 10 })
    await change({ 'encrypt.state': 'inactive', 'encrypt.keyslot': 0 })
    await expect(change({ 'encrypt.state': 'inactive', 'encrypt.keyslot': 1 })).rejects.toThrow(
      'Attempt to erase the only active keyslot 1',
    )
    await layer.closeAll()
    expect(ioOptions(cwd, opened('s'), 'read 0 512').stderr).toContain('Invalid password')
    expect(good(ioOptions(cwd, opened('t'), 'read -P 77 5000 100000')).stdout).not.toContain(
      'verification failed',
    )
    expect(theirs(cwd, 'check', ...secrets, '--image-opts', opened('t')).status).toBe(0)
  })
})
