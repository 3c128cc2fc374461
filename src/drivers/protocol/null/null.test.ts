import { describe, expect, test } from 'vitest'
import { Backend, createBlockLayer } from '../../../graph/index.js'
import { BlockStatus } from '../../../io/index.js'
import { MemoryHost } from '../../../testing/index.js'
import { raw } from '../../format/raw/index.js'
import { nullAio, nullCo } from './index.js'

function layer() {
  return createBlockLayer({ host: new MemoryHost(), drivers: [raw, nullCo, nullAio] })
}

describe.each(['null-co', 'null-aio'])('%s', (name) => {
  test('is one GiB of nothing in particular by default', async () => {
    const backend = await Backend.open(layer(), `${name}://`, { driver: 'raw' }, { write: true })
    expect(backend.length).toBe(1 << 30)
    expect(backend.node.filename).toBe(`${name}://`)
    const buffer = new Uint8Array(4).fill(7)
    await backend.write(0, 4, buffer)
    await backend.read(0, 4, buffer)
    await backend.flush()
    expect([...buffer]).toEqual([7, 7, 7, 7])
    await backend.close()
  })

  test('reads zeroes on request, and says so', async () => {
    const options = { driver: name, size: '1M', 'read-zeroes': 'on' }
    const backend = await Backend.open(layer(), undefined, options)
    expect(backend.length).toBe(1 << 20)
    expect(backend.node.filename).toMatch(/^json:/)
    const buffer = new Uint8Array(512).fill(7)
    await backend.read(512, 256, buffer, 128)
    expect(buffer[127]).toBe(7)
    expect(buffer.subarray(128, 384).every((byte) => byte === 0)).toBe(true)
    expect(buffer[384]).toBe(7)
    const status = new BlockStatus()
    await backend.node.status(0, 1 << 20, 'zero', status)
    expect([status.bytes, status.zero, status.data]).toEqual([1 << 20, true, false])
    await backend.close()
  })

  test('refuses other names and negative latency', async () => {
    await expect(layer().open(`${name}:x`, { driver: 'raw' })).rejects.toThrow(
      `The only allowed filename for this driver is '${name}://'`,
    )
    await expect(layer().open(undefined, { driver: name, 'latency-ns': '-1' })).rejects.toThrow(
      'latency-ns is invalid',
    )
    await expect(layer().open(undefined, { driver: name, filename: `${name}://` })).rejects.toThrow(
      `Block protocol '${name}' doesn't support the option 'filename'`,
    )
  })

  test('waits as long as asked', async () => {
    const backend = await Backend.open(layer(), undefined, { driver: name, 'latency-ns': 20_000_000 })
    const start = performance.now()
    await backend.read(0, 512, new Uint8Array(512))
    expect(performance.now() - start).toBeGreaterThan(15)
    await backend.close()
  })
})

test('null-co completes at once, null-aio never does', async () => {
  const co = await Backend.open(layer(), undefined, { driver: 'null-co' })
  const aio = await Backend.open(layer(), undefined, { driver: 'null-aio' })
  expect(co.read(0, 512, new Uint8Array(512))).toBeUndefined()
  const wait = aio.read(0, 512, new Uint8Array(512))
  expect(wait).toBeInstanceOf(Promise)
  await wait
  await co.close()
  await aio.close()
})
