import { expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import {
  addDirtyBitmap,
  type BlockNode,
  checkNode,
  clearDirtyBitmap,
  createBlockLayer,
  createWithDriver,
  type DirtyBitmap,
  removeDirtyBitmap,
  truncateNode,
} from '../../src/graph/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { CrashLog, MemoryHost } from '../../src/testing/index.js'

/**
 * Power-cut replay of images with dirty bitmaps. The rule that a backup relies on: whatever a crash
 * leaves, a bitmap that looks valid knows of every sector whose contents are not those of the time
 * when the bitmap was last cleared. The image opens, checks clean but for leaks, and can be written.
 */
const seeds = Number(process.env.CRASH_SEEDS ?? 3)
const maxStates = Number(process.env.CRASH_STATES ?? 350)
const path = '/image'
const sector = 512
const sectors = 256
const names = ['one', 'two', 'three']

function seeded(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

/**
 * What each bitmap compares with, by name: the contents when it was clean, for every time that it was.
 * A bitmap of any of these times may be the one a crash leaves.
 */
interface Baselines {
  /** Operations recorded when the bitmap was made or cleared, and the contents then. */
  readonly [name: string]: { readonly at: number; readonly contents: Uint8Array }[]
}

async function readAll(node: BlockNode): Promise<Uint8Array> {
  const bytes = new Uint8Array(node.length)
  await node.read(0, bytes.length, bytes, 0, 0)
  return bytes
}

async function run(
  seed: number,
  clusterSize: number,
): Promise<{ log: CrashLog; baselines: Baselines; start: number }> {
  const random = seeded(seed)
  const log = new CrashLog()
  const host = new MemoryHost({
    codecs: createNodeHost().codecs,
    log: (operation) => log.record(operation),
  })
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, driver, path, { size: sectors * sector, cluster_size: clusterSize })
  const start = log.length
  const baselines: Baselines = Object.fromEntries(names.map((name) => [name, []]))
  let generation = 0
  const clean = async (node: BlockNode, name: string): Promise<void> => {
    baselines[name]?.push({ at: log.length, contents: await readAll(node) })
  }
  for (let session = 0; session < 4; session++) {
    const node = await layer.open(path, { driver: 'qcow2', discard: 'unmap' }, { write: true })
    for (let step = 0; step < 12; step++) {
      const name = names[random(names.length)] ?? ''
      const bitmap = node.dirtyBitmaps.find(name)
      const at = random(sectors - 8)
      switch (random(8)) {
        case 0:
        case 1:
          if (bitmap === undefined) {
            await clean(node, name)
            await addDirtyBitmap(node, { name, granularity: 512 << random(4), persistent: true })
          } else if (random(2) === 0) {
            await removeDirtyBitmap(bitmap)
          } else {
            await clean(node, name)
            clearDirtyBitmap(bitmap)
          }
          break
        case 2:
          await node.flush()
          break
        case 3:
          await node.discard(at * sector, 8 * sector)
          break
        case 4:
          await node.writeZeroes(at * sector, 3 * sector, 0)
          break
        default: {
          const data = new Uint8Array((1 + random(6)) * sector)
          new DataView(data.buffer).setUint32(0, ++generation)
          data.fill((generation % 255) + 1, 4)
          await node.write(at * sector, data.length, data, 0, 0)
        }
      }
    }
    await layer.unref(node)
  }
  expect(host.warnings).toEqual([])
  return { log, baselines, start }
}

/** Whether `bitmap` has everything in which `contents` differs from `baseline`. */
function covers(bitmap: DirtyBitmap, contents: Uint8Array, baseline: Uint8Array): boolean {
  for (let at = 0; at < contents.length; at += sector) {
    const same = contents.subarray(at, at + sector).every((byte, i) => byte === (baseline[at + i] ?? 0))
    if (!same && !bitmap.get(at)) {
      return false
    }
  }
  return true
}

interface Seen {
  problem?: string
  valid: number
  inconsistent: number
}

async function inspect(image: Uint8Array, issued: number, baselines: Baselines, seen: Seen): Promise<void> {
  const host = new MemoryHost({ codecs: createNodeHost().codecs })
  host.put(path, image)
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const node = await layer.open(path, { driver: 'qcow2' })
  const check = await checkNode(node, { leaks: false, errors: false })
  if (check.corruptions !== 0 || check.checkErrors !== 0) {
    seen.problem = check.messages.join('; ')
    return
  }
  const contents = await readAll(node)
  for (const bitmap of node.dirtyBitmaps) {
    if (bitmap.inconsistent) {
      seen.inconsistent++
      continue
    }
    seen.valid++
    const times = (baselines[bitmap.name ?? ''] ?? []).filter(({ at }) => at <= issued)
    if (!times.some((time) => covers(bitmap, contents, time.contents))) {
      seen.problem = `bitmap '${bitmap.name}' misses what was written`
      return
    }
  }
  await layer.unref(node)
  const again = await layer.open(path, { driver: 'qcow2' }, { write: true })
  await again.write(0, sector, new Uint8Array(sector).fill(7), 0, 0)
  await layer.unref(again)
  const end = await layer.open(path, { driver: 'qcow2' })
  const last = await checkNode(end, { leaks: false, errors: false })
  if (last.corruptions !== 0 || last.checkErrors !== 0) {
    seen.problem = `after writing: ${last.messages.join('; ')}`
  }
  await layer.unref(end)
}

for (const clusterSize of [512, 1024, 65536]) {
  test(`a crash never leaves a bitmap that looks valid and is not: clusters of ${clusterSize}`, async () => {
    const seen: Seen = { valid: 0, inconsistent: 0 }
    for (let seed = 1; seed <= seeds; seed++) {
      const { log, baselines, start } = await run(seed, clusterSize)
      const random = seeded(seed + 1000)
      const states = [
        ...log.states({ random: () => random(1 << 20) / (1 << 20), exhaustive: 4, samples: 4 }),
      ].filter((state) => state.issued >= start)
      const every = Math.max(
        1,
        Math.floor(states.length / (clusterSize === 65536 ? maxStates / 5 : maxStates)),
      )
      for (let i = random(every); i < states.length; i += every) {
        const state = states[i]
        if (state !== undefined) {
          await inspect(state.contents, state.issued, baselines, seen)
          expect(seen.problem, `seed ${seed}, ${state.issued} operations`).toBeUndefined()
        }
      }
    }
    // Both outcomes must have been met, or nothing was shown.
    expect(seen.valid).toBeGreaterThan(10)
    expect(seen.inconsistent).toBeGreaterThan(10)
  })
}

test('growing an image does not make its bitmaps look valid', async () => {
  const log = new CrashLog()
  const host = new MemoryHost({ codecs: createNodeHost().codecs, log: (operation) => log.record(operation) })
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, driver, path, { size: 4096, cluster_size: 512 })
  const first = await layer.open(path, { driver: 'qcow2' }, { write: true })
  await addDirtyBitmap(first, { name: 'b', granularity: 512, persistent: true })
  await layer.unref(first)
  const start = log.length
  const node = await layer.open(path, { driver: 'qcow2' }, { write: true })
  await truncateNode(node, 4 << 20, { exact: true, preallocation: 'off', zero: false })
  await node.write(3 << 20, 512, new Uint8Array(512).fill(1), 0, 0)
  await layer.unref(node)
  const random = seeded(5)
  const outcomes = new Set<string>()
  for (const state of log.states({ random: () => random(1000) / 1000, exhaustive: 4, samples: 4 })) {
    if (state.issued < start) {
      continue
    }
    const again = new MemoryHost({ codecs: createNodeHost().codecs })
    again.put(path, state.contents)
    const look = createBlockLayer({ host: again, drivers: allDrivers })
    const image = await look.open(path, { driver: 'qcow2' })
    const bitmap = image.dirtyBitmaps.find('b')
    if (bitmap === undefined) {
      outcomes.add('gone')
    } else if (bitmap.inconsistent) {
      outcomes.add('inconsistent')
    } else {
      const written = image.length > 4096 && (await readAll(image)).some((byte) => byte !== 0)
      expect(!written || bitmap.get(3 << 20)).toBe(true)
      outcomes.add(bitmap.size === 4096 ? 'old' : 'new')
    }
    await look.unref(image)
  }
  expect(outcomes).toEqual(new Set(['old', 'inconsistent', 'new']))
})
