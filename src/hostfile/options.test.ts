import { describe, expect, test } from 'vitest'
import { OptionDict } from '../options/index.js'
import { parseWord, stripProtocolPrefix, takeHostFileSettings } from './options.js'

describe('takeHostFileSettings', () => {
  test('takes its own options and leaves the rest', () => {
    const dict = new OptionDict([
      ['filename', 'x'],
      ['aio', 'io_uring'],
      ['aio-max-batch', '8'],
      ['locking', 'off'],
      ['drop-cache', 'off'],
      ['x-check-cache-dropped', true],
      ['other', 1],
    ])
    expect(takeHostFileSettings(dict)).toEqual({
      filename: 'x',
      aio: 'io_uring',
      locking: 'off',
      dropCache: false,
      checkCacheDropped: true,
    })
    expect(dict.keys()).toEqual(['other'])
  })

  test('defaults', () => {
    expect(takeHostFileSettings(new OptionDict())).toEqual({
      filename: undefined,
      aio: undefined,
      locking: 'auto',
      dropCache: true,
      checkCacheDropped: false,
    })
  })
})

test('parseWord takes the first word for a missing one', () => {
  expect(parseWord(undefined, ['a', 'b'])).toBe('a')
  expect(parseWord('b', ['a', 'b'])).toBe('b')
  expect(() => parseWord('c', ['a', 'b'])).toThrow('invalid parameter value: c')
})

test.each([
  ['file:x', 'x'],
  ['file:a:b', './a:b'],
  ['file:/a:b', '/a:b'],
  ['file:file:x', './file:x'],
  ['x', 'x'],
  ['nbd:x', 'nbd:x'],
])('%s without its prefix is %s', (name, rest) => {
  expect(stripProtocolPrefix(name, 'file:')).toBe(rest)
})
