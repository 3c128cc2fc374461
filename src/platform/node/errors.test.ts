import { expect, test } from 'vitest'
import { fromErrno, fromNode, isUnsupported } from './errors.js'

function systemError(code: string): Error {
  return Object.assign(new Error('x'), { code, syscall: 'open', errno: -1 })
}

test('system errors become BlockErrors with our own text', () => {
  const error = fromNode(systemError('ENOENT'))
  expect([error.code, error.message, error.errno]).toEqual(['ENOENT', 'No such file or directory', -2])
  expect(error.cause).toBeInstanceOf(Error)
  expect(fromNode(error)).toBe(error)
  expect(fromNode(systemError('EOPNOTSUPP')).code).toBe('ENOTSUP')
  expect(fromNode(systemError('ENOTTY')).code).toBe('ENOTSUP')
  expect(fromNode(systemError('UNKNOWN')).code).toBe('EIO')
})

test('mistakes of the program are passed on', () => {
  const mistake = new TypeError('not a buffer')
  expect(() => fromNode(mistake)).toThrow(mistake)
  expect(() => fromNode(undefined)).toThrow()
})

test('errno numbers', () => {
  expect(fromErrno(28).code).toBe('ENOSPC')
  expect(fromErrno(25).code).toBe('ENOTSUP')
  expect(fromErrno(9999).code).toBe('EIO')
  expect([95, 38, 19, 25, 28].map(isUnsupported)).toEqual([true, true, true, true, false])
})
