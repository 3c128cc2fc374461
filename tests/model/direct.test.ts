import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { Backend, createBlockLayer } from '../../src/graph/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'

/** Requests of any alignment on images opened with O_DIRECT: neighbours in one block must not undo each other. */

const length = 1 << 20
const span = 64 << 10
let folder = ''

beforeAll(() => {
  // Memory file systems may lack O_DIRECT, /var/tmp seldom is one.
  folder = fs.mkdtempSync(join(fs.existsSync('/var/tmp') ? '/var/tmp' : tmpdir(), 'blockgraph-direct-'))
})

afterAll(() => {
  fs.rmSync(folder, { recursive: true })
})

/** A reproducible sequence of numbers below `limit`. */
function randomNumbers(seed: number): (limit: number) => number {
  let state = seed
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 0x1_0000_0000) * limit)
  }
}

describe.each(['threads', 'native', 'io_uring'] as const)('aio %s', (aio) => {
  test.each(['raw', 'qcow2'])('%s: writes side by side, flushes and reads', async (format) => {
    const layer = createBlockLayer({ host: createNodeHost({ io: 'auto' }), drivers: allDrivers })
    const path = join(folder, `${format}-${aio}`)
    if (format === 'raw') {
      fs.writeFileSync(path, new Uint8Array(length))
    } else {
      const { createImage } = await import('../../src/image/index.js')
      await createImage(layer, { filename: path, format, size: length })
    }
    const options = { driver: format, 'file.driver': 'file', 'file.filename': path, 'file.aio': aio }
    const image = await Backend.open(layer, undefined, { ...options, 'cache.direct': true }, { write: true })
    expect(
      image.node.children.find(({ name }) => name === 'file')?.node.limits.requestAlignment,
    ).toBeGreaterThan(1)
    const model = new Uint8Array(length)
    const random = randomNumbers(aio.length + format.length)
    for (let round = 0; round < 40; round++) {
      const base = random(length - span)
      const waits: unknown[] = []
      // Cut at arbitrary bytes, so that most blocks belong to two or more requests.
      for (let at = base; at < base + span; ) {
        const bytes = Math.min(1 + random(3000), base + span - at)
        const data = new Uint8Array(bytes).fill(1 + random(255))
        model.set(data, at)
        waits.push(image.write(at, bytes, data))
        at += bytes
      }
      if (round % 8 === 0) {
        waits.push(image.flush())
      }
      await Promise.all(waits)
      const from = random(length - span)
      const back = new Uint8Array(span)
      await image.read(from, span, back)
      expect(Buffer.compare(back, model.subarray(from, from + span))).toBe(0)
    }
    await image.close()
    const plain = await Backend.open(layer, path, { driver: format }, {})
    const all = new Uint8Array(length)
    await plain.read(0, length, all)
    expect(Buffer.compare(all, model)).toBe(0)
    await plain.close()
  })
})
