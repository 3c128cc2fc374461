import { expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { type BlockNode, checkNode, createBlockLayer, createWithDriver } from '../../src/graph/index.js'
import { ReqFlags } from '../../src/io/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { CrashFiles, MemoryHost } from '../../src/testing/index.js'

/**
 * Power cuts of images whose data is in a file of its own: each file keeps what was flushed and any part of
 * what came since, whatever the other one kept. In every state the image is sound but for leaks and shows
 * for each sector what was flushed last or something newer. `CRASH_SEEDS` and `CRASH_SAMPLES` set how much is tried.
 */
const seeds = Number(process.env.CRASH_SEEDS ?? 2)
const samples = Number(process.env.CRASH_SAMPLES ?? 1)
const stepsPerRun = 24

const codecs = createNodeHost().codecs
const sector = 512
const sectors = 160

function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

/** A step of the guest; operations with numbers from `begin` up to `end` belong to it. */
interface Done {
  readonly begin: number
  readonly end: number
  /** Sectors that hold `generation` after it; undefined: a flush. */
  readonly first?: number
  readonly count?: number
  readonly generation?: number
}

/** Sector `guest` as write number `generation` leaves it; 0: zeroes. */
function stamp(buffer: Uint8Array, at: number, guest: number, generation: number): void {
  const view = new DataView(buffer.buffer, buffer.byteOffset)
  buffer.fill(generation === 0 ? 0 : generation % 255, at, at + sector)
  if (generation !== 0) {
    view.setUint32(at, guest + 1)
    view.setUint32(at + 4, generation)
  }
}

/** What each sector may hold when the operations up to `issued` have been issued. */
function possibleAt(history: readonly Done[], issued: number): Set<number>[] {
  const possible = Array.from({ length: sectors }, () => new Set([0]))
  for (const step of history) {
    if (step.begin >= issued) {
      break
    }
    if (step.generation === undefined) {
      if (step.end <= issued) {
        for (const [guest, set] of possible.entries()) {
          possible[guest] = new Set([[...set].at(-1) ?? 0])
        }
      }
      continue
    }
    const { first = 0, count = 0, generation } = step
    for (const set of possible.slice(first, first + count)) {
      // The newest comes last.
      set.delete(generation)
      set.add(generation)
    }
  }
  return possible
}

/** What a disk shows that it cannot; undefined: nothing. */
function unexpected(bytes: Uint8Array, possible: readonly ReadonlySet<number>[]): string | undefined {
  const view = new DataView(bytes.buffer)
  for (const [guest, generations] of possible.entries()) {
    const owner = view.getUint32(guest * sector)
    const shown = owner === 0 ? 0 : view.getUint32(guest * sector + 4)
    if ((owner !== 0 && owner !== guest + 1) || !generations.has(shown)) {
      return `sector ${guest} shows write ${shown} of sector ${owner - 1}`
    }
  }
  return undefined
}

async function readAll(node: BlockNode): Promise<Uint8Array> {
  const bytes = new Uint8Array(sectors * sector)
  await node.read(0, bytes.length, bytes, 0, 0)
  return bytes
}

const variants = [
  { name: 'plain', options: { cluster_size: 1024 } },
  { name: 'raw', options: { cluster_size: 1024, data_file_raw: true } },
  { name: 'lazy refcounts', options: { cluster_size: 2048, lazy_refcounts: true } },
  { name: 'extended L2 entries', options: { cluster_size: 16384, extended_l2: true } },
]

const cases = variants.flatMap((variant) =>
  Array.from(
    { length: seeds },
    (_, seed) => [`${variant.name}, seed ${seed}`, variant.options, seed + 1] as const,
  ),
)

test.each(cases)('an external data file: %s', { timeout: 600_000 }, async (_name, options, seed) => {
  const random = seeded(seed * 7919)
  const below = (limit: number): number => Math.floor(random() * limit)
  let log: CrashFiles | undefined
  const host = new MemoryHost({ codecs, log: (operation) => log?.record(operation) })
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, driver, '/image', { size: sectors * sector, data_file: '/data', ...options })
  const initial = new Map(
    ['/image', '/data'].map((path) => [path, host.contents(path)?.bytes().slice() ?? new Uint8Array(0)]),
  )
  const node = await layer.open('/image', { driver: 'qcow2' }, { write: true, unmap: true })
  log = new CrashFiles(initial)
  const history: Done[] = []
  for (let generation = 1; generation <= stepsPerRun; generation++) {
    const first = below(sectors)
    const count = Math.min(sectors - first, 1 + below(12))
    const begin = log.length
    const kind = below(10)
    if (kind < 6) {
      const data = new Uint8Array(count * sector)
      for (let i = 0; i < count; i++) {
        stamp(data, i * sector, first + i, generation)
      }
      await node.write(first * sector, data.length, data, 0, 0)
      history.push({ begin, end: log.length, first, count, generation })
    } else if (kind < 8) {
      await node.writeZeroes(first * sector, count * sector, kind === 6 ? ReqFlags.mayUnmap : 0)
      history.push({ begin, end: log.length, first, count, generation: 0 })
    } else {
      await node.flush()
      history.push({ begin, end: log.length })
    }
  }
  await layer.unref(node)
  history.push({ begin: log.length, end: log.length })

  let tried = 0
  for (const state of log.states({ random, samples })) {
    const after = new MemoryHost({ codecs })
    for (const [path, contents] of state.contents) {
      after.put(path, contents)
    }
    const crashed = createBlockLayer({ host: after, drivers: allDrivers })
    if ('lazy_refcounts' in options) {
      // Whoever opens it for writing repairs it.
      await crashed.unref(await crashed.open('/image', { driver: 'qcow2' }, { write: true }))
    }
    const image = await crashed.open('/image', { driver: 'qcow2' })
    const place = `operation ${state.issued} of ${log.length}`
    const check = await checkNode(image, { leaks: false, errors: false })
    expect([check.corruptions, check.checkErrors], `${place}: ${check.messages.join('; ')}`).toEqual([0, 0])
    const possible = possibleAt(history, state.issued)
    expect(unexpected(await readAll(image), possible), place).toBeUndefined()
    if ('data_file_raw' in options) {
      // So does who reads the data file alone.
      const raw = new Uint8Array(sectors * sector)
      raw.set((state.contents.get('/data') ?? raw).subarray(0, raw.length))
      expect(unexpected(raw, possible), `${place}, data file alone`).toBeUndefined()
    }
    await crashed.unref(image)
    tried++
  }
  expect(tried).toBeGreaterThan(50)
})
