import { expect, test } from 'vitest'
import {
  Backend,
  isSuspended,
  removeBreakpoint,
  resumeRequest,
  setBreakpoint,
} from '../../src/graph/index.js'
import { failure, memoryLayer, pattern } from './fixtures.js'

/** Lets everything run that can. */
async function turn(): Promise<void> {
  await new Promise((resolve) => {
    setImmediate(resolve)
  })
}

test('row 113: events reach the own driver only, breakpoints the first below that debugs', async () => {
  const { layer, host } = memoryLayer()
  host.put('/img', pattern(4096, 1))
  const file = { driver: 'blkdebug', image: { driver: 'file', filename: '/img' } }
  const top = await Backend.open(layer, undefined, { driver: 'raw', file: { driver: 'raw', file } })
  const { node } = top
  const buffer = new Uint8Array(512)

  setBreakpoint(node, 'read_aio', 'A')
  expect(isSuspended(node, 'A')).toBe(false)
  const read = Promise.resolve(top.read(512, 512, buffer))
  await turn()
  expect(isSuspended(node, 'A')).toBe(true)
  expect(host.printed).toEqual(["blkdebug: Suspended request 'A'"])
  expect(buffer).toEqual(new Uint8Array(512))
  resumeRequest(node, 'A')
  await read
  expect(buffer).toEqual(pattern(4096, 1).subarray(512, 1024))
  expect(isSuspended(node, 'A')).toBe(false)

  // Once only; and a breakpoint that is removed lets go what it holds.
  expect(top.read(0, 512, buffer)).toBeUndefined()
  setBreakpoint(node, 'read_aio', 'B')
  setBreakpoint(node, 'read_aio', 'B')
  const second = Promise.resolve(top.read(0, 512, buffer))
  await turn()
  removeBreakpoint(node, 'B')
  await second
  expect(top.read(0, 512, buffer)).toBeUndefined()

  expect((await failure(() => resumeRequest(node, 'A'))).code).toBe('ENOENT')
  expect((await failure(() => removeBreakpoint(node, 'A'))).code).toBe('ENOENT')
  expect((await failure(() => setBreakpoint(node, 'nonsense', 'A'))).code).toBe('ENOENT')
  await top.close()
})

test('row 113: without such a driver below there is no support', async () => {
  const { layer, host } = memoryLayer()
  host.put('/img', pattern(4096, 1))
  const top = await Backend.open(layer, '/img', { driver: 'raw' })
  for (const run of [
    () => setBreakpoint(top.node, 'read_aio', 'A'),
    () => removeBreakpoint(top.node, 'A'),
    () => resumeRequest(top.node, 'A'),
  ]) {
    expect((await failure(run)).code).toBe('ENOTSUP')
  }
  expect(isSuspended(top.node, 'A')).toBe(false)
  await top.close()
})
