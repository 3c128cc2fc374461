import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isBlockError } from '../../errors/index.js'
import { nodeCiphers } from '../../platform/node/ciphers.js'
import { MemoryHost } from '../../testing/index.js'
import { afMerge, afSplit } from './af-split.js'
import { amendLuks } from './amend.js'
import { makeLuks, writeLuks } from './create.js'
import { luksHeaderBytes, parseLuksHeader, serializeLuksHeader } from './header.js'
import { scaleIterations } from './iterations.js'
import type { LuksStorage } from './key-slots.js'
import { luksCreateOptions } from './options.js'
import { luksSpec } from './spec.js'
import { openLuks } from './volume.js'

const host = new MemoryHost({ ciphers: nodeCiphers })
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

/** Storage in memory that keeps what was durable at each flush. */
function memory(bytes: number) {
  const data = new Uint8Array(bytes)
  const states: Uint8Array[] = []
  const storage: LuksStorage = {
    read: async (offset, length) => data.slice(offset, offset + length),
    write: async (offset, from) => {
      data.set(from, offset)
      states.push(data.slice())
    },
    flush: async () => undefined,
  }
  return { data, storage, states }
}

function over(data: Uint8Array): LuksStorage {
  return { ...memory(0).storage, read: async (offset, length) => data.slice(offset, offset + length) }
}

async function fresh(password: string, options: Record<string, string | number> = {}) {
  const made = await makeLuks(host, luksCreateOptions({ 'iter-time': 1, ...options }, ''), utf8(password))
  const disk = memory(made.header.payloadOffset)
  await writeLuks(disk.storage, made)
  made.volume.dispose()
  return disk
}

test('PBKDF2: RFC 6070 and RFC 7914 vectors', async () => {
  const derive = async (
    hash: 'sha1' | 'sha256',
    password: string,
    salt: string,
    count: number,
    bytes: number,
  ) => hex(await nodeCiphers.pbkdf2(hash, utf8(password), utf8(salt), count, bytes))
  expect(await derive('sha1', 'password', 'salt', 1, 20)).toBe('0c60c80f961f0e71f3a9b524af6012062fe037a6')
  expect(await derive('sha1', 'password', 'salt', 4096, 20)).toBe('4b007901b765489abead49d926f721d065a429c1')
  expect(await derive('sha256', 'passwd', 'salt', 1, 32)).toBe(
    '55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc',
  )
})

describe('the splitter', () => {
  test('gives the key back, and only from all stripes', () => {
    fc.assert(
      // A key of a byte or two may come out by chance.
      fc.property(
        fc.uint8Array({ minLength: 16, maxLength: 80 }),
        fc.integer({ min: 1, max: 40 }),
        fc.constantFrom('sha1' as const, 'sha256' as const, 'sha512' as const, 'ripemd160' as const),
        fc.nat(),
        (key, stripes, hash, where) => {
          const split = afSplit(nodeCiphers, hash, stripes, key, (bytes) => host.randomBytes(bytes))
          expect(split.length).toBe(key.length * stripes)
          expect(afMerge(nodeCiphers, hash, stripes, split)).toEqual(key)
          const at = where % split.length
          split[at] = (split[at] as number) ^ 1
          expect(afMerge(nodeCiphers, hash, stripes, split)).not.toEqual(key)
        },
      ),
      { numRuns: 60 },
    )
  })
})

describe('the header', () => {
  test('is what was written', async () => {
    const { data } = await fresh('password')
    const header = parseLuksHeader(data)
    expect(serializeLuksHeader(header)).toEqual(data.slice(0, luksHeaderBytes))
    expect(header).toMatchObject({
      cipherName: 'aes',
      cipherMode: 'xts-plain64',
      hashSpec: 'sha256',
      keyBytes: 64,
    })
    expect(header.uuid).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  })

  test('any damage gives bounded fields or a BlockError', async () => {
    const { data } = await fresh('password')
    const head = data.slice(0, luksHeaderBytes)
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(luksHeaderBytes - 1), fc.nat(255)), { minLength: 1, maxLength: 6 }),
        (changes) => {
          const bytes = head.slice()
          for (const [at, value] of changes) {
            bytes[at] = value
          }
          try {
            const header = parseLuksHeader(bytes)
            luksSpec(header)
            expect(header.keyBytes).toBeLessThanOrEqual(65)
            for (const { keyOffset, stripes } of header.slots) {
              expect(stripes).toBe(4000)
              expect(keyOffset + header.keyBytes * stripes).toBeLessThanOrEqual(header.payloadOffset)
            }
          } catch (error) {
            expect(isBlockError(error)).toBe(true)
          }
        },
      ),
      { numRuns: 3000 },
    )
  })
})

describe('passwords', () => {
  test('the right one opens, others do not', async () => {
    const { storage } = await fresh('one')
    const volume = await openLuks(host, storage, utf8('one'))
    const sector = new Uint8Array(512).fill(5)
    volume.cipher?.encrypt(3, sector, 0, 512)
    expect(sector.every((byte) => byte === 5)).toBe(false)
    const again = await openLuks(host, storage, utf8('one'))
    again.cipher?.decrypt(3, sector, 0, 512)
    expect(sector.every((byte) => byte === 5)).toBe(true)
    await expect(openLuks(host, storage, utf8('two'))).rejects.toThrow(
      'Invalid password, cannot unlock any keyslot',
    )
    expect((await openLuks(host, storage, undefined)).cipher).toBeUndefined()
  })

  test('a platform without ciphers refuses', async () => {
    const { storage } = await fresh('one')
    const bare = new MemoryHost()
    await expect(openLuks(bare, storage, utf8('one'))).rejects.toThrow(
      'PBKDF does not support hash algorithm sha256',
    )
    await expect(makeLuks(bare, luksCreateOptions({}, ''), utf8('one'))).rejects.toThrow(
      "Algorithm 'aes-256' not supported",
    )
  })

  test('numbers of iterations', () => {
    expect(scaleIterations(1_000_000, 2000, 1)).toBe(2_000_000)
    expect(scaleIterations(1_000_000, 2000, 8)).toBe(250_000)
    expect(scaleIterations(1_000_000, 0, 1)).toBe(1000)
    expect(() => scaleIterations(1e6, -1, 1)).toThrow('too large to scale: Numerical result out of range')
    expect(() => scaleIterations(1e6, 1e10, 1)).toThrow(
      'larger than 4294967295: Numerical result out of range',
    )
  })
})

describe('amending', () => {
  const passwords: Record<string, string> = { a: 'one', b: 'two' }
  const amend = async (
    disk: ReturnType<typeof memory>,
    options: Partial<Parameters<typeof amendLuks>[0]['options']>,
    keySecret = 'a',
  ) =>
    await amendLuks({
      host,
      storage: disk.storage,
      volume: await openLuks(host, disk.storage, undefined),
      options: {
        state: 'active',
        keySlot: undefined,
        oldSecret: undefined,
        newSecret: undefined,
        iterTime: undefined,
        ...options,
      },
      force: false,
      password: (id) => utf8(passwords[id] ?? ''),
      keySecret,
    })

  /** Which of the two passwords open. */
  const opening = async (data: Uint8Array): Promise<string> => {
    let found = ''
    for (const [id, password] of Object.entries(passwords)) {
      await openLuks(host, over(data), utf8(password)).then(
        () => {
          found += id
        },
        () => undefined,
      )
    }
    return found
  }

  test('after every single write some password opens, and what was active stays so until it is erased', async () => {
    const disk = await fresh('one')
    disk.states.length = 0
    await amend(disk, { newSecret: 'b', iterTime: 1 })
    const added = []
    for (const state of disk.states) {
      added.push(await opening(state))
    }
    expect(added).toEqual(['a', 'ab'])
    disk.states.length = 0
    const before = disk.data.slice()
    await amend(disk, { state: 'inactive', keySlot: 0 }, 'b')
    expect(await opening(disk.states[0] as Uint8Array)).toBe('b')
    expect(await opening(disk.data)).toBe('b')
    // Nothing is left of the key material.
    const { keyOffset } = parseLuksHeader(before).slots[0] as { keyOffset: number }
    let same = 0
    for (let at = keyOffset; at < keyOffset + 256000; at++) {
      same += before[at] === disk.data[at] ? 1 : 0
    }
    expect(same).toBeLessThan(2000)
    expect(disk.states.length).toBe(41)
  })
})
