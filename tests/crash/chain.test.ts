import { expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import {
  type BlockLayer,
  checkNode,
  createBlockLayer,
  createWithDriver,
  dropIntermediate,
  reopenSetReadOnly,
} from '../../src/graph/index.js'
import { commitImage, rebaseImage } from '../../src/image/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { CrashFiles, MemoryHost } from '../../src/testing/index.js'

/**
 * Power cuts during operations on chains of images. In every state a crash may leave, the upper image
 * is sound (leaks are allowed) and shows the guest what it showed before the operation began.
 * `CRASH_SEEDS` and `CRASH_SAMPLES` set how much is tried.
 */
const seeds = Number(process.env.CRASH_SEEDS ?? 3)
const samples = Number(process.env.CRASH_SAMPLES ?? 2)

const codecs = createNodeHost().codecs
const clusterSize = 1024
const size = 96 * clusterSize
const paths = ['/base', '/other', '/middle', '/top'] as const

function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

function noise(bytes: number, random: () => number): Uint8Array {
  return Uint8Array.from({ length: bytes }, () => Math.floor(random() * 256))
}

interface Prepared {
  readonly host: MemoryHost
  readonly layer: BlockLayer
  /** What the guest sees through `/top`. */
  readonly guest: Uint8Array
  /** Starts recording. */
  record(): CrashFiles
}

/** `/top` over `/middle` over `/base`, with random contents, and an unrelated `/other`. */
async function prepare(seed: number, options: Record<string, string | number>): Promise<Prepared> {
  const random = seeded(seed)
  let log: CrashFiles | undefined
  const host = new MemoryHost({ codecs, log: (operation) => log?.record(operation) })
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  const guest = new Uint8Array(size)
  const base = noise(size / 2 + 512, random)
  guest.set(base)
  host.put('/base', base)
  const other = noise(size, random)
  other.set(base.subarray(0, 20 * clusterSize))
  host.put('/other', other)
  for (const [path, below, format] of [
    ['/middle', '/base', 'raw'],
    ['/top', '/middle', 'qcow2'],
  ] as const) {
    const common = { size, cluster_size: clusterSize, backing_file: below, backing_fmt: format }
    await createWithDriver(layer, driver, path, { ...common, ...options })
    const node = await layer.open(path, { driver: 'qcow2' }, { write: true })
    for (let i = 0; i < 12; i++) {
      const offset = Math.floor(random() * (size / 512)) * 512
      const bytes = Math.min(size - offset, (1 + Math.floor(random() * 8)) * 512)
      if (random() < 0.2) {
        await node.writeZeroes(offset, bytes, 4)
        guest.fill(0, offset, offset + bytes)
      } else {
        const data = noise(bytes, random)
        await node.write(offset, bytes, data, 0, 0)
        guest.set(data, offset)
      }
    }
    await layer.unref(node)
  }
  const contents = (path: string): Uint8Array => host.contents(path)?.bytes() ?? new Uint8Array(0)
  return {
    host,
    layer,
    guest,
    record: () => {
      log = new CrashFiles(new Map(paths.map((path) => [path, contents(path)])))
      return log
    },
  }
}

/** What is wrong with a state, if anything. */
async function inspect(
  contents: ReadonlyMap<string, Uint8Array>,
  guest: Uint8Array,
): Promise<string | undefined> {
  const host = new MemoryHost({ codecs })
  for (const [path, bytes] of contents) {
    host.put(path, bytes)
  }
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const node = await layer.open('/top', { driver: 'qcow2' })
  try {
    const check = await checkNode(node, { leaks: false, errors: false })
    if (check.corruptions !== 0 || check.checkErrors !== 0) {
      return check.messages.join('; ')
    }
    const seen = new Uint8Array(guest.length)
    await node.read(0, seen.length, seen, 0, 0)
    if (Buffer.compare(seen, guest) === 0) {
      return undefined
    }
    const at = seen.findIndex((byte, i) => byte !== guest[i])
    return `sector ${Math.floor(at / 512)} differs`
  } finally {
    await layer.unref(node)
  }
}

/** Inspects every state from operation `from` on; returns how many there are. */
async function everyState(log: CrashFiles, seed: number, guest: Uint8Array, from = 0): Promise<number> {
  let count = 0
  for (const { issued, contents } of log.states({ random: seeded(seed + 1000), samples })) {
    if (issued >= from) {
      expect(await inspect(contents, guest), `seed ${seed}, after operation ${issued}`).toBeUndefined()
      count++
    }
  }
  return count
}

const formats = [
  ['version 3', {}],
  ['version 2', { compat: '0.10' }],
  ['counts of one bit', { refcount_bits: 1 }],
] as const

test.each(formats)('commit loses nothing, %s', async (_name, options) => {
  for (let seed = 1; seed <= seeds; seed++) {
    const { layer, guest, record } = await prepare(seed, options)
    const log = record()
    await commitImage(layer, { filename: '/top', format: 'qcow2' })
    expect(await everyState(log, seed, guest)).toBeGreaterThan(20)
  }
})

test('commit to the base of a longer chain loses nothing', async () => {
  for (let seed = 1; seed <= seeds; seed++) {
    const { layer, guest, record } = await prepare(seed, {})
    const log = record()
    await commitImage(layer, { filename: '/top', format: 'qcow2' }, { base: '/base' })
    expect(await everyState(log, seed, guest)).toBeGreaterThan(20)
  }
})

test.each(['/other', '/base', ''])('rebase to "%s" loses nothing', async (backing) => {
  for (let seed = 1; seed <= seeds; seed++) {
    const { layer, guest, record } = await prepare(seed, {})
    const log = record()
    await rebaseImage(layer, { filename: '/top', format: 'qcow2' }, { backing, backingFormat: 'raw' })
    expect(await everyState(log, seed, guest)).toBeGreaterThan(20)
  }
})

test('dropping an image from a chain that was committed loses nothing', async () => {
  for (let seed = 1; seed <= seeds; seed++) {
    const { layer, guest, record } = await prepare(seed, {})
    const log = record()
    await commitImage(layer, { filename: '/middle', format: 'qcow2' })
    const top = await layer.open('/top', { driver: 'qcow2' }, { write: true })
    const middle = top.backing
    const base = middle?.backing
    if (middle === undefined || base === undefined) {
      throw new Error('no chain')
    }
    await dropIntermediate(top, middle, base)
    await layer.unref(top)
    expect(await everyState(log, seed, guest)).toBeGreaterThan(20)
  }
})

test('what was written before a reopen as read-only is durable when that returns', async () => {
  for (let seed = 1; seed <= seeds; seed++) {
    const { layer, guest, record } = await prepare(seed, {})
    const top = await layer.open('/top', { driver: 'qcow2' }, { write: true })
    const log = record()
    const data = noise(5000, seeded(seed + 7))
    await top.write(3000, data.length, data, 0, 0)
    guest.set(data, 3000)
    await reopenSetReadOnly(top, true)
    const from = log.length
    await reopenSetReadOnly(top, false)
    await layer.unref(top)
    // The state right after the reopen, whatever was still pending then.
    expect(await everyState(log, seed, guest, from)).toBeGreaterThan(0)
  }
})
