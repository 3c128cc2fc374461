import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { encodeAdc } from '../../../tests/formats/built/adc.js'
import { sampleDisk } from '../../../tests/formats/built/disk.js'
import { encodeLzfse, encodeLzvn, encodeStored } from '../../../tests/formats/built/lzfse.js'
import { isBlockError } from '../../errors/index.js'
import { Crc64, crc32, decodeAdc, decodeBzip2, decodeLzfse, decodeXz } from './index.js'

const samples = [
  sampleDisk(1),
  sampleDisk(100_000, 3).map((byte) => byte & 7),
  sampleDisk(300_000, 7),
  new Uint8Array(70_000),
  new TextEncoder().encode('abc '.repeat(20_000)),
]

const codecs: [
  string,
  (data: Uint8Array) => Uint8Array,
  (input: Uint8Array, output: Uint8Array) => unknown,
][] = [
  ['adc', encodeAdc, decodeAdc],
  ['lzfse', encodeLzfse, decodeLzfse],
  ['lzvn', encodeLzvn, decodeLzfse],
  ['stored lzfse', encodeStored, decodeLzfse],
]

describe.each(codecs)('%s', (_name, encode, decode) => {
  test.each(samples.map((data) => [data.length, data] as const))('gives back %i bytes', (_bytes, data) => {
    const output = new Uint8Array(data.length)
    decode(encode(data), output)
    expect(Buffer.compare(output, data)).toBe(0)
  })

  test('refuses another length, and a stream cut short', () => {
    const data = samples[1] as Uint8Array
    const input = encode(data)
    expect(() => decode(input, new Uint8Array(data.length - 1))).toThrow('Input/output error')
    expect(() => decode(input, new Uint8Array(data.length + 1))).toThrow('Input/output error')
    expect(() => decode(input.subarray(0, input.length - 5), new Uint8Array(data.length))).toThrow(
      'Input/output error',
    )
  })
})

/** "hello" five times and zeroes, made by bzip2 and xz. */
const hello = new Uint8Array(1000)
hello.set(new TextEncoder().encode('hello'.repeat(5)))
const packed = {
  bzip2: 'QlpoOTFBWSZTWY245uUAAAzBBMAAAkSAAQAIIAAxDACKmmyVmA6mBYlEgcLuSKcKEhG3HNyg',
  xz: '/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4APnABNdADQZSe6OmHwokGs/PhBXEga3NwAAAPYodeA/MOy3AAEv6AcAAACZ19ywscRn+wIAAAAABFla',
}

test.each([
  ['bzip2', decodeBzip2],
  ['xz', decodeXz],
] as const)('%s gives back what the tool was given', async (name, decode) => {
  const input = Buffer.from(packed[name], 'base64')
  const output = new Uint8Array(hello.length)
  await decode(input, output)
  expect(Buffer.compare(output, hello)).toBe(0)
  await expect(decode(input, new Uint8Array(hello.length - 1))).rejects.toMatchObject({ code: 'EIO' })
  await expect(decode(input, new Uint8Array(hello.length + 1))).rejects.toMatchObject({ code: 'EIO' })
})

test('whatever is changed, every decoder ends with the bytes or a BlockError', async () => {
  const data = (samples[1] as Uint8Array).subarray(0, 3000)
  const inputs: [Uint8Array, number, (input: Uint8Array, output: Uint8Array) => unknown][] = [
    ...codecs.map(
      ([, encode, decode]) => [encode(data), data.length, decode] as [Uint8Array, number, typeof decode],
    ),
    [Buffer.from(packed.bzip2, 'base64'), hello.length, decodeBzip2],
    [Buffer.from(packed.xz, 'base64'), hello.length, decodeXz],
  ]
  const change = fc.tuple(fc.nat(), fc.nat(255))
  await fc.assert(
    fc.asyncProperty(
      fc.nat(inputs.length - 1),
      fc.array(change, { maxLength: 4 }),
      fc.nat(4000),
      async (which, changes, cut) => {
        const [pristine, length, decode] = inputs[which] as (typeof inputs)[number]
        const input = pristine.slice(0, cut < 3000 ? pristine.length : cut)
        for (const [at, value] of changes) {
          input[at % pristine.length] = value
        }
        try {
          await decode(input, new Uint8Array(length))
        } catch (error) {
          expect(isBlockError(error), String(error)).toBe(true)
        }
      },
    ),
    { numRuns: 400 },
  )
})

test('checksums are those of the standards', () => {
  const digits = new TextEncoder().encode('123456789')
  expect(crc32(digits, 0, 9).toString(16)).toBe('cbf43926')
  expect(crc32(digits, 4, 9, crc32(digits, 0, 4)).toString(16)).toBe('cbf43926')
  const crc64 = new Crc64()
  crc64.update(digits, 0, 9)
  expect([crc64.upper.toString(16), crc64.lower.toString(16)]).toEqual(['995dc9bb', 'df1939fa'])
})
