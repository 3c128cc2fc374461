import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { isBlockError } from '../../src/errors/index.js'
import { checkNode, createBlockLayer } from '../../src/graph/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { MemoryHost } from '../../src/testing/index.js'

/**
 * Images somebody has tampered with: whatever stands in them, opening, reading, checking and writing
 * either works or fails with a BlockError, within a second and 256 MiB.
 */
const path = '/image.qcow2'
const codecs = createNodeHost().codecs
let folder: string
let pristine: Uint8Array
/** With extended L2 entries. */
let extended: Uint8Array

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'blockgraph-hostile-'))
  const file = join(folder, 'a.qcow2')
  const qemu = (program: string, ...args: string[]) => execFileSync(program, args, { stdio: 'pipe' })
  qemu('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4096', file, '4M')
  qemu(
    'qemu-io',
    '-c',
    'write -P 1 0 64k',
    '-c',
    'write -z 128k 64k',
    '-c',
    'write -P 3 3M 16k',
    '-c',
    'write -c -P 4 1M 4k',
    file,
  )
  qemu('qemu-img', 'snapshot', '-c', 'snap', file)
  qemu('qemu-io', '-c', 'write -P 2 4k 8k', file)
  pristine = new Uint8Array(readFileSync(file))
  const other = join(folder, 'b.qcow2')
  qemu('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'cluster_size=16k,extended_l2=on', other, '4M')
  const commands = ['write -P 1 1k 30k', 'write -z 33k 4k', 'write -P 3 3M 16k', 'write -c -P 4 1M 16k']
  qemu('qemu-io', ...commands.flatMap((command) => ['-c', command]), other)
  qemu('qemu-img', 'snapshot', '-c', 'snap', other)
  qemu('qemu-io', '-c', 'write -P 2 4k 20k', other)
  extended = new Uint8Array(readFileSync(other))
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

/** Runs `step`; anything but a BlockError is passed on. True if it succeeded. */
async function survives(step: () => unknown): Promise<boolean> {
  try {
    await step()
    return true
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
    expect(error.message.length).toBeGreaterThan(0)
    return false
  }
}

async function abuse(contents: Uint8Array): Promise<boolean> {
  const before = process.memoryUsage()
  const start = process.cpuUsage()
  const host = new MemoryHost({ codecs })
  host.put(path, contents)
  const layer = createBlockLayer({ host, drivers: allDrivers })
  let opened = false
  await survives(async () => {
    const node = await layer.open(path, { driver: 'qcow2' })
    opened = true
    const buffer = new Uint8Array(65536)
    for (let at = 0; at < Math.min(node.length, 4 << 20); at += buffer.length) {
      await survives(() => node.read(at, buffer.length, buffer, 0, 0))
    }
    await survives(() => checkNode(node, { leaks: false, errors: false }))
    await layer.unref(node)
  })
  await survives(async () => {
    const node = await layer.open(path, { driver: 'qcow2', discard: 'unmap' }, { write: true })
    const data = new Uint8Array(8192).fill(7)
    for (const at of [0, 4096, 1 << 20, (1 << 20) + 512, 3 << 20]) {
      if (at + data.length <= node.length) {
        await survives(() => node.write(at, data.length, data, 0, 0))
        await survives(() => node.writeZeroes(at, 4096, 4))
        await survives(() => node.discard(at, 8192))
      }
    }
    await survives(() => layer.unref(node))
  })
  expect([...layer.nodes]).toEqual([])
  const after = process.memoryUsage()
  expect(after.arrayBuffers + after.external - before.arrayBuffers - before.external).toBeLessThan(256 << 20)
  // Time on the processor, microseconds: what else the machine does meanwhile does not count.
  const used = process.cpuUsage(start)
  expect(used.user + used.system).toBeLessThan(1_000_000)
  return opened
}

test('the untouched image is fine', async () => {
  expect(await abuse(pristine.slice())).toBe(true)
})

const fields: [string, number, number][] = [
  ['magic', 0, 4],
  ['version', 4, 4],
  ['backing file offset', 8, 8],
  ['backing file size', 16, 4],
  ['cluster bits', 20, 4],
  ['size', 24, 8],
  ['crypt method', 32, 4],
  ['L1 size', 36, 4],
  ['L1 offset', 40, 8],
  ['refcount table offset', 48, 8],
  ['refcount table clusters', 56, 4],
  ['snapshots', 60, 4],
  ['snapshot offset', 64, 8],
  ['incompatible features', 72, 8],
  ['compatible features', 80, 8],
  ['autoclear features', 88, 8],
  ['refcount order', 96, 4],
  ['header length', 100, 4],
  ['compression type', 104, 1],
]

describe('every header field at its extremes', () => {
  for (const [name, offset, bytes] of fields) {
    test(name, async () => {
      for (const value of [0, 1, 0x7f, 0x80, 0xff]) {
        const broken = pristine.slice()
        broken.fill(value === 1 ? 0 : value, offset, offset + bytes)
        if (value === 1) {
          broken[offset + bytes - 1] = 1
        }
        await abuse(broken)
      }
    })
  }
})

test('files cut off anywhere', async () => {
  for (let length = 0; length < pristine.length; length += length < 600 ? 37 : 3777) {
    await abuse(pristine.slice(0, length))
  }
})

test('any bytes anywhere in the metadata', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.record({
          at: fc.oneof(fc.nat(511), fc.nat(40959)),
          value: fc.oneof(fc.constantFrom(0, 1, 0x40, 0x80, 0xff), fc.nat(255)),
          run: fc.integer({ min: 1, max: 8 }),
        }),
        { minLength: 1, maxLength: 6 },
      ),
      async (changes) => {
        const broken = pristine.slice()
        for (const { at, value, run } of changes) {
          broken.fill(value, at, at + run)
        }
        await abuse(broken)
      },
    ),
    { numRuns: Number(process.env.HOSTILE_RUNS ?? 150) },
  )
})

test('an image that claims to be enormous costs nothing', async () => {
  const huge = pristine.slice(0, 4096)
  new DataView(huge.buffer).setBigUint64(24, 1n << 62n)
  expect(await abuse(huge)).toBe(false)
})

describe('extended L2 entries', () => {
  test('the untouched image is fine', async () => {
    expect(await abuse(extended.slice())).toBe(true)
  })

  test('any bytes anywhere in the L2 tables', async () => {
    const l1 = Number(new DataView(extended.buffer).getBigUint64(40))
    const l2 = Number(new DataView(extended.buffer).getBigUint64(l1) & 0xfffffffffffe00n)
    const byte = fc.oneof(fc.constantFrom(0, 1, 0x40, 0x80, 0xff), fc.nat(255))
    const entry = fc.oneof(fc.nat(4 * 16 - 1), fc.nat(64 * 16 - 1), fc.constant((3 << 20) / 1024))
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ at: entry, value: byte, run: fc.integer({ min: 1, max: 16 }) }), {
          minLength: 1,
          maxLength: 6,
        }),
        async (changes) => {
          const broken = extended.slice()
          for (const { at, value, run } of changes) {
            broken.fill(value, l2 + at, l2 + at + run)
          }
          await abuse(broken)
        },
      ),
      { numRuns: Math.ceil(Number(process.env.HOSTILE_RUNS ?? 150) / 2) },
    )
  })

  test('every combination of features that an image can claim', async () => {
    for (let features = 0; features < 64; features++) {
      const claimed = [pristine, extended].map((image) => image.slice())
      for (const image of claimed) {
        image[79] = features
        await abuse(image)
      }
    }
  })
})
