import { createCipheriv, createHash } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { nodeCiphers } from '../../platform/node/ciphers.js'
import { type CipherSpec, essivCipher, keyBytesOf, makeSectorCipher } from './make-cipher.js'
import { type CipherAlgorithm, type CipherMode, cipherAlgorithms } from './names.js'
import { sectorCipher } from './sector-cipher.js'

const hex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'hex'))

function algorithm(name: string): CipherAlgorithm {
  const found = cipherAlgorithms.find((one) => one.name === name)
  if (found === undefined) {
    throw new Error(name)
  }
  return found
}

function spec(name: string, mode: CipherMode, ivgen: CipherSpec['ivgen'] = 'plain64'): CipherSpec {
  return { cipher: algorithm(name), mode, ivgen, ivHash: ivgen === 'essiv' ? 'sha256' : undefined }
}

const content = (bytes: number): Uint8Array =>
  Uint8Array.from({ length: bytes }, (_, i) => (i * 7 + (i >> 9)) % 256)

describe('XTS', () => {
  test('IEEE 1619 vectors 4 and 5 (512-byte units, 128-bit keys)', () => {
    const cipher = makeSectorCipher(
      nodeCiphers,
      spec('aes-128', 'xts'),
      hex('2718281828459045235360287471352631415926535897932384626433832795'),
    )
    const first = Uint8Array.from({ length: 512 }, (_, i) => i % 256)
    const data = first.slice()
    cipher.encrypt(0, data, 0, 512)
    expect(Buffer.from(data.subarray(0, 32)).toString('hex')).toBe(
      '27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c',
    )
    // Vector 5 enciphers the outcome of vector 4 as unit 1.
    cipher.encrypt(1, data, 0, 512)
    expect(Buffer.from(data.subarray(0, 32)).toString('hex')).toBe(
      '264d3ca8512194fec312c8c9891f279fefdd608d0c027b60483a3fa811d65ee5',
    )
    cipher.decrypt(1, data, 0, 512)
    cipher.decrypt(0, data, 0, 512)
    expect(data).toEqual(first)
    cipher.dispose()
  })
})

/** What OpenSSL makes of the sectors, one at a time. */
function reference(
  name: string,
  key: Uint8Array,
  ivs: (sector: number) => Uint8Array,
  data: Uint8Array,
  first: number,
) {
  const out = new Uint8Array(data.length)
  for (let at = 0; at < data.length; at += 512) {
    const cipher = createCipheriv(name, key, name.endsWith('ecb') ? null : ivs(first + at / 512))
    cipher.setAutoPadding(false)
    out.set(cipher.update(data.subarray(at, at + 512)), at)
  }
  return out
}

function number64(sector: number): Uint8Array {
  const iv = new Uint8Array(16)
  new DataView(iv.buffer).setBigUint64(0, BigInt(sector), true)
  return iv
}

function number32(sector: number): Uint8Array {
  const iv = new Uint8Array(16)
  new DataView(iv.buffer).setUint32(0, sector % 2 ** 32, true)
  return iv
}

const aes = ['128', '192', '256'].flatMap((bits) =>
  (['xts', 'cbc', 'ctr', 'ecb'] as const)
    .filter((mode) => !(bits === '192' && mode === 'xts'))
    .map((mode) => [`aes-${bits}`, mode] as const),
)

describe('every mode gives what OpenSSL gives sector by sector', () => {
  const key64 = Uint8Array.from({ length: 64 }, (_, i) => (i * 37 + 11) % 256)

  test.each(aes)('%s %s', (name, mode) => {
    // A size that is no multiple of a chunk, at an odd offset, around the 2^32nd sector.
    const bytes = 512 * 300
    const data = content(bytes)
    for (const [ivgen, iv] of [
      ['plain64', number64],
      ['plain', number32],
    ] as const) {
      const key = key64.subarray(0, keyBytesOf(spec(name, mode)))
      const cipher = makeSectorCipher(nodeCiphers, spec(name, mode, ivgen), key)
      const first = 2 ** 32 - 150
      const padded = new Uint8Array(bytes + 8).fill(9)
      padded.set(data, 3)
      cipher.encrypt(first, padded, 3, bytes)
      const expected = reference(`${name}-${mode}`, key, iv, data, first)
      expect(Buffer.compare(padded.subarray(3, bytes + 3), expected)).toBe(0)
      expect([...padded.subarray(0, 3), ...padded.subarray(bytes + 3)]).toEqual(new Array(8).fill(9))
      cipher.decrypt(first, padded, 3, bytes)
      expect(Buffer.compare(padded.subarray(3, bytes + 3), data)).toBe(0)
      cipher.dispose()
    }
  })

  test('counters carry over all their bytes', () => {
    const key = key64.subarray(0, 32)
    const block = nodeCiphers.blockCipher('aes', key)
    if (block === undefined) {
      throw new Error('no AES')
    }
    const ones = {
      fill: (_: number, count: number, into: Uint8Array) => into.fill(255, 0, count * 16),
      dispose: () => 0,
    }
    const cipher = sectorCipher('ctr', block, undefined, ones)
    const data = new Uint8Array(512)
    cipher.encrypt(0, data, 0, 512)
    const iv = new Uint8Array(16).fill(255)
    expect(Buffer.compare(data, createCipheriv('aes-256-ctr', key, iv).update(new Uint8Array(512)))).toBe(0)
    cipher.dispose()
  })

  test('essiv', () => {
    const key = key64.subarray(0, 32)
    const salt = createHash('sha256').update(key).digest()
    const iv = (sector: number): Uint8Array =>
      createCipheriv('aes-256-ecb', salt, null).setAutoPadding(false).update(number64(sector))
    const cipher = makeSectorCipher(nodeCiphers, spec('aes-256', 'cbc', 'essiv'), key)
    const data = content(512 * 130)
    const work = data.slice()
    cipher.encrypt(77, work, 0, work.length)
    expect(Buffer.compare(work, reference('aes-256-cbc', key, iv, data, 77))).toBe(0)
    cipher.decrypt(77, work, 0, work.length)
    expect(Buffer.compare(work, data)).toBe(0)
    cipher.dispose()
  })

  test('blocks of 8 bytes', () => {
    const key = key64.subarray(0, 24)
    for (const mode of ['cbc', 'ecb'] as const) {
      const cipher = makeSectorCipher(nodeCiphers, spec('3des', mode), key)
      const data = content(512 * 3)
      const work = data.slice()
      cipher.encrypt(5, work, 0, work.length)
      const iv = (sector: number): Uint8Array => number64(sector).subarray(0, 8)
      expect(
        Buffer.compare(work, reference(mode === 'ecb' ? 'des-ede3-ecb' : 'des-ede3-cbc', key, iv, data, 5)),
      ).toBe(0)
      cipher.decrypt(5, work, 0, work.length)
      expect(Buffer.compare(work, data)).toBe(0)
      cipher.dispose()
    }
  })
})

describe('what there is not', () => {
  test('ciphers the platform lacks', () => {
    expect(() => makeSectorCipher(undefined, spec('aes-256', 'cbc'), new Uint8Array(32))).toThrow(
      "Algorithm 'aes-256' not supported",
    )
    expect(() => makeSectorCipher(nodeCiphers, spec('des', 'cbc'), new Uint8Array(8))).toThrow(
      "Algorithm 'des' not supported",
    )
  })

  test('XTS over small blocks', () => {
    expect(() => makeSectorCipher(nodeCiphers, spec('cast5-128', 'xts'), new Uint8Array(32))).toThrow(
      'Unsupported cipher mode xts',
    )
  })

  test('essiv with a hash that is no key', () => {
    expect(() => essivCipher(algorithm('aes-256'), 'sha1')).toThrow(
      'No AES cipher with key size 20 available',
    )
    expect(() => essivCipher(algorithm('3des'), 'sha256')).toThrow('Cipher 3des not supported with essiv')
    expect(essivCipher(algorithm('aes-128'), 'sha256').name).toBe('aes-256')
  })
})
