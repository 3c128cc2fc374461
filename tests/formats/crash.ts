import { expect, test } from 'vitest'
import { checkNode, truncateNode } from '../../src/graph/index.js'
import { CrashFiles } from '../../src/testing/index.js'
import {
  type FormatUnderTest,
  filesOf,
  hostWith,
  imagePath,
  layerOn,
  makeImage,
  memoryHost,
  openOptions,
  recover,
  sector,
  seeded,
} from './format-under-test.js'
import { Guest, readAll } from './guest.js'

const seeds = Number(process.env.CRASH_SEEDS ?? 2)
const maxStates = ({ crashStates = 150 }: FormatUnderTest): number =>
  Number(process.env.CRASH_STATES ?? crashStates)

/**
 * A power cut at any write: the image opens, checks clean but for leaks, and every sector shows what
 * was flushed last or something later of its own.
 */
export function crashTests(under: FormatUnderTest): void {
  test('a crash at any write loses nothing that was flushed and shows nothing foreign', async () => {
    for (let seed = 1; seed <= seeds; seed++) {
      const { log, guest } = await record(under, seed)
      const random = seeded(seed + 1000)
      const total = log.length * 5
      const keep = Math.min(1, maxStates(under) / total)
      let tried = 0
      for (const state of log.states({ random, samples: 2 })) {
        if (random() >= keep) {
          continue
        }
        const noted = guest.history.filter((entry) => entry.at < state.issued).at(-1) ?? guest.history[0]
        const problem = await inspect(under, state.contents, guest, noted?.possible ?? [])
        expect(problem, `seed ${seed}, ${state.issued} operations`).toBeUndefined()
        tried++
      }
      expect(tried).toBeGreaterThan(20)
    }
  })
}

/**
 * A power cut while an image is made longer: it has the old length or the new one, and all that was flushed.
 */
export function growCrashTests(under: FormatUnderTest & { grownSize: number }): void {
  test('a crash while it grows leaves the old length or the new one, and all contents', async () => {
    const fresh = memoryHost()
    await makeImage(fresh, under)
    const files = filesOf(fresh)
    const log = new CrashFiles(files)
    const layer = layerOn(hostWith(files, { log: (operation) => log.record(operation) }))
    const node = await layer.open(imagePath, openOptions(under), { write: true })
    const old = node.length
    const guest = new Guest(Math.floor(old / sector))
    guest.save(0)
    // All that a longer table could want to move, in an order that is not the disk's.
    const step = Math.max(1, Math.floor(guest.sectors / 24))
    for (let first = guest.sectors - 1; first >= 0; first -= step) {
      const data = guest.write(first, 1)
      guest.save(log.length)
      await node.write(first * sector, data.length, data, 0, 0)
    }
    await node.flush()
    guest.flushed()
    guest.save(log.length)
    const flushed = log.length
    await truncateNode(node, under.grownSize, { exact: false, preallocation: 'off', zero: true })
    const lengths = new Set([old, node.length])
    await layer.unref(node)
    const random = seeded(77)
    const keep = Math.min(1, Math.ceil(maxStates(under) / 3) / ((log.length - flushed) * 5))
    let tried = 0
    for (const state of log.states({ random, samples: 2 })) {
      if (state.issued <= flushed || random() >= keep) {
        continue
      }
      const noted = guest.history.at(-1)
      const problem = await inspect(under, state.contents, guest, noted?.possible ?? [], lengths)
      expect(problem, `${state.issued} operations`).toBeUndefined()
      tried++
    }
    expect(tried).toBeGreaterThan(0)
  })
}

async function record(under: FormatUnderTest, seed: number): Promise<{ log: CrashFiles; guest: Guest }> {
  const random = seeded(seed)
  const fresh = memoryHost()
  await makeImage(fresh, under)
  const files = filesOf(fresh)
  const log = new CrashFiles(files)
  const layer = layerOn(hostWith(files, { log: (operation) => log.record(operation) }))
  const node = await layer.open(imagePath, { ...openOptions(under), discard: 'unmap' }, { write: true })
  const guest = new Guest(Math.floor(node.length / sector))
  guest.save(0)
  for (let step = 0; step < 30; step++) {
    const action = random()
    const first = Math.floor(random() * guest.sectors)
    const count = Math.min(guest.sectors - first, 1 + Math.floor(random() * 8))
    if (action < 0.6) {
      const data = guest.write(first, count)
      guest.save(log.length)
      await node.write(first * sector, data.length, data, 0, 0)
    } else if (action < 0.75) {
      guest.zero(first, count)
      guest.save(log.length)
      await node.writeZeroes(first * sector, count * sector, action < 0.68 ? 4 : 0)
    } else {
      await node.flush()
      guest.flushed()
      guest.save(log.length)
    }
  }
  await layer.unref(node)
  return { log, guest }
}

async function inspect(
  under: FormatUnderTest,
  contents: ReadonlyMap<string, Uint8Array>,
  guest: Guest,
  possible: readonly ReadonlySet<number>[],
  lengths?: ReadonlySet<number>,
): Promise<string | undefined> {
  const layer = layerOn(hostWith(contents))
  await recover(layer, under)
  // A log, a dirty flag or the like is dealt with by the first open for writing.
  const node = await layer.open(imagePath, openOptions(under), { write: true })
  try {
    if (under.checks) {
      const check = await checkNode(node, { leaks: false, errors: false })
      if (check.corruptions !== 0 || check.checkErrors !== 0) {
        return check.messages.join('; ') || `${check.corruptions} corruptions`
      }
    }
    if (lengths !== undefined && !lengths.has(node.length)) {
      return `${node.length} bytes long`
    }
    // What lies behind the old end was not promised to be zeroes before growing was done.
    return guest.problem(await readAll(node, guest.sectors * sector), possible)
  } finally {
    await layer.unref(node)
  }
}
