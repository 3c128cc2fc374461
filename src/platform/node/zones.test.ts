import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Libc } from './libc.js'
import { libc } from './libc.js'
import { zonesOf } from './zones.js'

let folder: string

beforeEach(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'blockgraph-zones-'))
  fs.mkdirSync(join(folder, 'queue'))
})

afterEach(() => {
  fs.rmSync(folder, { recursive: true, force: true })
})

function publish(attributes: Readonly<Record<string, string | number>>): void {
  for (const [name, value] of Object.entries(attributes)) {
    fs.writeFileSync(join(folder, 'queue', name), `${value}\n`)
  }
}

const stat = (): fs.BigIntStats => fs.statSync(folder, { bigint: true })

interface Call {
  readonly request: number
  readonly argument: Uint8Array
}

/** A kernel with `total` zones of 2048 sectors, of which 1536 can be written. */
function kernel(total: number, calls: Call[], result = 0): Libc {
  const ioctl = (_fd: number, request: number, argument: Uint8Array): number => {
    calls.push({ request, argument: argument.slice() })
    if (request !== 0xc0101282 || result < 0) {
      return result
    }
    const view = new DataView(argument.buffer)
    const first = Math.floor(Number(view.getBigUint64(0, true)) / 2048)
    const count = Math.min(view.getUint32(8, true), total - first)
    view.setUint32(8, count, true)
    view.setUint32(12, 1, true)
    for (let i = 0; i < count; i++) {
      const at = 16 + i * 64
      view.setBigUint64(at, BigInt((first + i) * 2048), true)
      view.setBigUint64(at + 8, 2048n, true)
      view.setBigUint64(at + 16, BigInt((first + i) * 2048 + 7), true)
      view.setUint8(at + 24, 2)
      view.setUint8(at + 25, 4)
      view.setBigUint64(at + 32, 1536n, true)
    }
    return 0
  }
  const fake: Partial<Libc> = {
    ioctl,
    ioctlAsync: (fd, request, argument) => Promise.resolve(ioctl(fd, request, argument)),
  }
  return fake as Libc
}

test('a device without zones', () => {
  expect(zonesOf(0, stat(), folder, kernel(1, []))).toBeUndefined()
  publish({ zoned: 'none', chunk_sectors: 0 })
  expect(zonesOf(0, stat(), folder, kernel(1, []))).toBeUndefined()
  publish({ zoned: 'host-managed', chunk_sectors: 'x' })
  expect(zonesOf(0, stat(), folder, kernel(1, []))).toBeUndefined()
})

test('what the kernel publishes', () => {
  publish({
    zoned: 'host-managed',
    chunk_sectors: 2048,
    zone_write_granularity: 4096,
    zone_append_max_bytes: 131072,
  })
  expect(zonesOf(0, stat(), folder, kernel(1, []))).toMatchObject({
    model: 'host-managed',
    zoneBytes: 1 << 20,
    writeGranularity: 4096,
    maxAppendBytes: 131072,
  })
})

test('zones are asked for in parts, and told in bytes', () => {
  publish({ zoned: 'host-aware', chunk_sectors: 2048 })
  const calls: Call[] = []
  const zones = zonesOf(5, stat(), folder, kernel(1500, calls))
  const found = zones?.report(1 << 20, 5000) ?? []
  expect(found.length).toBe(1499)
  expect(found[0]).toEqual({
    start: 1 << 20,
    length: 1 << 20,
    capacity: 768 << 10,
    writePointer: (1 << 20) + 7 * 512,
    type: 2,
    condition: 4,
  })
  expect(calls.length).toBe(3)
})

test('management names the range in sectors', async () => {
  publish({ zoned: 'host-managed', chunk_sectors: 2048 })
  const calls: Call[] = []
  const zones = zonesOf(5, stat(), folder, kernel(4, calls))
  for (const operation of ['open', 'close', 'finish', 'reset'] as const) {
    await zones?.manage(operation, 1 << 20, 2 << 20)
  }
  expect(calls.map(({ request }) => request)).toEqual([0x40101286, 0x40101287, 0x40101288, 0x40101283])
  expect([...new BigUint64Array(calls[0]?.argument.buffer ?? new ArrayBuffer(0))]).toEqual([2048n, 4096n])
})

test('errors carry the errno', async () => {
  publish({ zoned: 'host-managed', chunk_sectors: 2048 })
  const zones = zonesOf(5, stat(), folder, kernel(4, [], -5))
  expect(() => zones?.report(0, 1)).toThrow(expect.objectContaining({ code: 'EIO' }))
  await expect(zones?.manage('reset', 0, 1 << 20)).rejects.toMatchObject({ code: 'EIO' })
})

test('the kernel here knows the requests, and that a plain file has no zones', () => {
  publish({ zoned: 'host-managed', chunk_sectors: 2048 })
  const c = libc()
  if (c === undefined) {
    expect(zonesOf(0, stat(), folder, c)).toBeUndefined()
    return
  }
  const file = join(folder, 'plain')
  fs.writeFileSync(file, '')
  const fd = fs.openSync(file, 'r')
  try {
    const zones = zonesOf(fd, stat(), folder, c)
    expect(() => zones?.report(0, 1)).toThrow(expect.objectContaining({ code: 'ENOTSUP' }))
  } finally {
    fs.closeSync(fd)
  }
})
