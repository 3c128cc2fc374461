import { expect, test } from 'vitest'
import { lengthArgument, patternArgument, vectorLength } from './arguments.js'
import { amountText, dumpText } from './text.js'

test('amounts', () => {
  expect([0, 512, 1024, 1536, 2 ** 20].map(amountText)).toEqual([
    '0 bytes',
    '512 bytes',
    '1 KiB',
    '1.500 KiB',
    '1 MiB',
  ])
})

test('a dump shows 16 bytes a line and stops at the end', () => {
  const buffer = new Uint8Array(17).fill(0x41)
  buffer[1] = 0x2e
  expect(dumpText(buffer, 512)).toBe(
    '00000200:  41 2e 41 41 41 41 41 41 41 41 41 41 41 41 41 41  A.AAAAAAAAAAAAAA\n00000210:  41  A\n',
  )
})

test('numbers of commands', () => {
  expect(patternArgument('0xff')).toBe(255)
  expect(() => patternArgument('256')).toThrow('256 is not a valid pattern byte')
  expect(vectorLength(['1k', '2k'])).toBe(3072)
  expect(() => lengthArgument('2G')).toThrow('length cannot exceed 2147483136, given 2G')
})
