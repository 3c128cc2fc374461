import { expect, test } from 'vitest'
import { escapeOptionValue, parseOptionText } from './option-text.js'

test('pairs, doubled commas, bare names and their negation', () => {
  expect(parseOptionText('a=1,b=x,,y,c,nod,e=')).toEqual([
    ['a', '1'],
    ['b', 'x,y'],
    ['c', 'on'],
    ['d', 'off'],
    ['e', ''],
  ])
  expect(parseOptionText('')).toEqual([])
  expect(parseOptionText('=5')).toEqual([['', '5']])
  expect(parseOptionText('a==,,=')).toEqual([['a', '=,=']])
})

test('an escaped value is read back', () => {
  for (const value of ['plain', 'a,b', ',', ',,', 'a=b,c=d']) {
    expect(parseOptionText(`x=${escapeOptionValue(value)},y=1`)).toEqual([
      ['x', value],
      ['y', '1'],
    ])
  }
})
