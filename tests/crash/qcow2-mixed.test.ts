import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import {
  type BlockNode,
  checkNode,
  createBlockLayer,
  listSnapshots,
  loadSnapshot,
} from '../../src/graph/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { type CrashState, MemoryHost } from '../../src/testing/index.js'
import {
  basePath,
  guestSectors,
  imagePath,
  maxSectors,
  type Possible,
  type Recorded,
  record,
  type Step,
  sector,
  type Workload,
} from './qcow2-mixed.js'

/**
 * Power cuts in workloads that mix everything. Short ones: every state that may be left between two
 * flushes, by any order of the writes since; long random ones: a sample. In each the image opens, what
 * was flushed reads back, snapshots read as when they were taken, and our check and `qemu-img check`
 * find leaks at most. CI takes a part; `CRASH_ALL=1` takes every state of the short workloads, and
 * `CRASH_LONG` is how many states of long ones are tried; QEMU judges all of them then.
 */
const everything = process.env.CRASH_ALL === '1'
const long = Number(process.env.CRASH_LONG ?? 300)
const perWorkload = everything ? Number.POSITIVE_INFINITY : 130
const judged = everything || process.env.CRASH_LONG !== undefined ? 1 : 12

const codecs = createNodeHost().codecs
let folder = ''

beforeAll(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'blockgraph-crash-'))
})

afterAll(() => fs.rmSync(folder, { recursive: true }))

function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

const small = { cluster_size: 512 }
const writes: readonly Step[] = [['write', 0, 4], ['write', 20, 3], ['flush']]

/** Short workloads: few enough operations between flushes that all their orders can be tried. */
const short: Readonly<Record<string, Workload>> = {
  'allocating writes': { options: small, steps: [...writes, ['write', 1, 2], ['write', 40, 2], ['flush']] },
  'writes over a backing file': {
    options: { cluster_size: 1024 },
    backed: true,
    steps: [['write', 1, 2], ['write', 21, 1], ['flush'], ['write', 4, 5], ['discard', 0, 4], ['flush']],
  },
  'discard and reuse': {
    options: small,
    steps: [...writes, ['discard', 0, 4], ['write', 30, 3], ['flush'], ['write', 50, 2]],
  },
  'zeroes and data': {
    options: { cluster_size: 1024 },
    steps: [...writes, ['zero', 0, 3], ['unmap', 20, 2], ['write', 1, 1], ['flush'], ['write', 20, 1]],
  },
  'zeroes in place, and data again': {
    options: { cluster_size: 1024 },
    steps: [...writes, ['zero', 0, 4], ['flush'], ['write', 0, 4], ['write', 2, 2], ['flush']],
  },
  'version 2': {
    options: { cluster_size: 512, compat: '0.10' },
    steps: [...writes, ['zero', 0, 2], ['unmap', 20, 2], ['write', 8, 2], ['flush']],
  },
  'snapshot and write': {
    options: small,
    steps: [...writes, ['snapshot', 'one'], ['write', 1, 2], ['write', 40, 1], ['flush']],
  },
  'snapshot, write, apply': {
    options: small,
    steps: [...writes, ['snapshot', 'one'], ['write', 1, 2], ['apply', 'one'], ['write', 2, 1]],
  },
  'snapshot, write, delete': {
    options: small,
    steps: [...writes, ['snapshot', 'one'], ['write', 1, 2], ['delete', 'one'], ['write', 30, 2]],
  },
  'two snapshots, discard': {
    options: { cluster_size: 512, refcount_bits: 8 },
    steps: [...writes, ['snapshot', 'one'], ['discard', 0, 4], ['snapshot', 'two'], ['delete', 'one']],
  },
  'bitmap stored': {
    options: small,
    steps: [...writes, ['bitmap', 'b'], ['write', 2, 3], ['reopen'], ['write', 30, 2], ['reopen']],
  },
  'bitmap removed': {
    options: small,
    steps: [...writes, ['bitmap', 'b'], ['reopen'], ['remove bitmap', 'b'], ['write', 30, 2]],
  },
  grow: { options: small, steps: [...writes, ['resize', 90], ['write', 80, 3], ['flush'], ['write', 10, 1]] },
  shrink: { options: small, steps: [...writes, ['resize', 21], ['write', 3, 2], ['flush'], ['resize', 40]] },
  'shrink with a snapshot': {
    options: small,
    steps: [...writes, ['snapshot', 'one'], ['resize', 21], ['write', 20, 1], ['apply', 'one']],
  },
  'amend to version 2': {
    options: { cluster_size: 1024 },
    steps: [...writes, ['zero', 0, 2], ['amend', { compat: '0.10' }], ['write', 20, 2]],
  },
  'amend to version 3': {
    options: { cluster_size: 512, compat: '0.10' },
    steps: [...writes, ['amend', { compat: '1.1' }], ['write', 20, 2]],
  },
  'amend refcounts': {
    options: small,
    steps: [...writes, ['snapshot', 'one'], ['amend', { refcount_bits: 64 }], ['write', 1, 2]],
  },
  'amend backing file': {
    options: { cluster_size: 512 },
    backed: true,
    steps: [...writes, ['amend', { backing_file: '/base', backing_fmt: 'raw' }], ['write', 1, 2]],
  },
  'lazy refcounts': {
    options: { cluster_size: 512, lazy_refcounts: true },
    steps: [...writes, ['discard', 0, 4], ['write', 30, 3], ['flush'], ['write', 50, 2]],
  },
  'lazy refcounts over a backing file': {
    options: { cluster_size: 2048, lazy_refcounts: true },
    backed: true,
    steps: [['write', 1, 2], ['write', 21, 1], ['flush'], ['write', 9, 5], ['unmap', 0, 4], ['write', 2, 1]],
  },
  'lazy refcounts and a snapshot': {
    options: { cluster_size: 2048, lazy_refcounts: true },
    steps: [...writes, ['snapshot', 'one'], ['write', 1, 2], ['flush'], ['write', 21, 1], ['delete', 'one']],
  },
  'a snapshot, parts of clusters': {
    options: { cluster_size: 2048 },
    steps: [...writes, ['snapshot', 'one'], ['write', 1, 2], ['flush'], ['write', 21, 1], ['apply', 'one']],
  },
  commit: {
    options: { cluster_size: 1024 },
    backed: true,
    steps: [['write', 1, 4], ['write', 20, 2], ['commit'], ['write', 3, 2]],
  },
}

function randomWorkload(seed: number): Workload {
  const random = seeded(seed * 7919)
  const below = (limit: number) => Math.floor(random() * limit)
  const backed = below(3) === 0
  const old = below(4) === 0
  const options = {
    cluster_size: [512, 1024, 4096][below(3)] ?? 512,
    compat: old ? '0.10' : '1.1',
    refcount_bits: old ? 16 : ([16, 8, 4, 64][below(4)] ?? 16),
    lazy_refcounts: !old && below(4) === 0,
  }
  const steps = Array.from({ length: 60 }, (): Step => {
    const first = below(guestSectors)
    const count = 1 + below(7)
    const name = ['one', 'two'][below(2)] ?? ''
    const kind = below(40)
    if (kind < 16) {
      return ['write', first, count]
    }
    if (kind < 21) {
      return [(['zero', 'unmap'] as const)[below(2)] ?? 'zero', first, count]
    }
    if (kind < 24) {
      // What version 2 discards may show what is below; parts of clusters are not discarded.
      return old || backed ? ['unmap', first, count] : ['discard', first - (first % 8), 8 * (1 + below(2))]
    }
    if (kind < 29) {
      return ['flush']
    }
    // Where nothing of its own is, a snapshot shows the backing file, which a commit changes.
    const snapshots: readonly Step[] = [
      ['snapshot', name],
      ['snapshot', name],
      ['apply', name],
      ['delete', name],
    ]
    const rest: Step[] = [
      ...(backed ? [] : snapshots),
      ['reopen'],
      backed ? ['commit'] : ['resize', 20 + below(maxSectors - 20)],
      old ? ['flush'] : ['bitmap', name],
      old ? ['flush'] : ['remove bitmap', name],
      ['amend', old ? { compat: '1.1' } : { refcount_bits: [8, 16, 32][below(3)] ?? 16 }],
    ]
    return rest[below(rest.length)] ?? ['flush']
  })
  return { options, backed, steps }
}

function readable(
  bytes: Uint8Array,
  possible: (guest: number, generation: number) => boolean,
): string | undefined {
  const view = new DataView(bytes.buffer)
  for (let guest = 0; guest < bytes.length / sector; guest++) {
    const owner = view.getUint32(guest * sector)
    const generation = owner === 0 ? 0 : view.getUint32(guest * sector + 4)
    if (owner !== 0 && owner !== guest + 1) {
      return `sector ${guest} shows sector ${owner - 1}`
    }
    if (!possible(guest, generation)) {
      return `sector ${guest} shows write ${generation}`
    }
  }
  return undefined
}

async function readAll(node: BlockNode): Promise<Uint8Array> {
  const bytes = new Uint8Array(node.length)
  await node.read(0, bytes.length, bytes, 0, 0)
  return bytes
}

/**
 * Whether what a check complains of, leaks aside, is harmless: a COPIED flag and a refcount cannot change
 * together. A flag that says "mine alone" must be true all the same; one that is missing costs a copy.
 */
function onlyFlagsLag(lines: readonly string[], clusterSize: number): boolean {
  const alone = new Set<number>()
  for (const line of lines) {
    const leak = /^Leaked cluster (\d+) refcount=\d+ reference=1$/.exec(line)
    if (leak !== null) {
      alone.add(Number(leak[1]))
    }
  }
  return lines.every((line) => {
    const flag = /^ERROR OFLAG_COPIED .*(?:l1|l2)_entry=([0-9a-f]+) refcount=(\d+)$/.exec(line)
    if (flag === null) {
      return !line.startsWith('ERROR')
    }
    const entry = BigInt(`0x${flag[1]}`)
    const isSet = entry >> 63n === 1n
    const cluster = Number((entry & 0x00fffffffffffe00n) / BigInt(clusterSize))
    return isSet ? alone.has(cluster) : flag[2] === '1'
  })
}

/** What is wrong with a state, or undefined. */
async function inspect(
  contents: Uint8Array,
  base: Uint8Array | undefined,
  possible: Possible,
  { flagsMayLag, lazy }: Recorded,
): Promise<string | undefined> {
  const host = new MemoryHost({ codecs })
  host.put(imagePath, contents)
  if (base !== undefined) {
    host.put(basePath, base)
  }
  const layer = createBlockLayer({ host, drivers: allDrivers })
  if (lazy) {
    // Whoever opens it for writing repairs it.
    await layer.unref(await layer.open(imagePath, { driver: 'qcow2' }, { write: true }))
  }
  const node = await layer.open(imagePath, { driver: 'qcow2' })
  try {
    const check = await checkNode(node, { leaks: false, errors: false })
    const harmless = flagsMayLag && onlyFlagsLag(check.messages, clusterSizeOf(contents))
    if ((check.corruptions !== 0 && !harmless) || check.checkErrors !== 0) {
      return `our check: ${check.messages.join('; ')}`
    }
    if (!possible.lengths.has(node.length / sector)) {
      return `has ${node.length / sector} sectors`
    }
    const wrong = readable(await readAll(node), (guest, one) => possible.sectors[guest]?.has(one) === true)
    if (wrong !== undefined) {
      return wrong
    }
    const names = (listSnapshots(node) ?? []).map(({ name }) => name)
    for (const [name, { certain }] of possible.snapshots) {
      if (certain && !names.includes(name)) {
        return `snapshot ${name} is gone`
      }
    }
    for (const name of names) {
      const expected = possible.snapshots.get(name)
      if (expected === undefined) {
        return `there is a snapshot ${name}`
      }
      const reader = await layer.open(imagePath, { driver: 'qcow2' })
      await loadSnapshot(reader, undefined, name)
      const bad = readable(await readAll(reader), (guest, one) => {
        return guest >= expected.length || expected.contents[guest] === one
      })
      await layer.unref(reader)
      if (bad !== undefined) {
        return `snapshot ${name}: ${bad}`
      }
    }
    return undefined
  } finally {
    await layer.unref(node)
  }
}

/** What QEMU's check says against an image, if it is more than leaks. */
function judge(
  contents: Uint8Array,
  base: Uint8Array | undefined,
  { flagsMayLag, lazy }: Recorded,
): string | undefined {
  const file = path.join(folder, 'image')
  fs.writeFileSync(file, contents)
  // The image names its base by a path that exists only in memory.
  const name =
    base === undefined
      ? file
      : `json:${JSON.stringify({ driver: 'qcow2', file: { driver: 'file', filename: file }, backing: null })}`
  const { status, stderr, error } = spawnSync('qemu-img', ['check', ...(lazy ? ['-r', 'all'] : []), name], {
    encoding: 'utf8',
  })
  if (error !== undefined) {
    throw error
  }
  const lines = stderr.split('\n').filter((line) => line !== '')
  const harmless = status === 2 && flagsMayLag && onlyFlagsLag(lines, clusterSizeOf(contents))
  return status === 0 || status === 3 || harmless ? undefined : `qemu-img check, code ${status}: ${stderr}`
}

function clusterSizeOf(image: Uint8Array): number {
  return 2 ** new DataView(image.buffer, image.byteOffset).getUint32(20)
}

interface Tried {
  states: number
  judged: number
}

async function replay(recorded: Recorded, exhaustive: number, budget: number, seed: number): Promise<Tried> {
  const { log, base, history } = recorded
  const random = seeded(seed)
  const start = history[0]?.at ?? 0
  const tried: Tried = { states: 0, judged: 0 }
  const distinct = new Map<string, CrashState>()
  for (const state of log.states({ random, exhaustive, samples: 6 })) {
    if (state.issued >= start) {
      // The same bytes at another time may have to show something newer.
      const time = history.findLastIndex(({ at }) => at < state.issued)
      const digest = createHash('sha1').update(state.contents).digest('hex')
      distinct.set(`${time} ${digest}`, state)
    }
  }
  const states = [...distinct.values()]
  const every = Math.max(1, states.length / budget)
  for (let at = random() * every; at < states.length; at += every) {
    const state = states[Math.floor(at)]
    if (state === undefined) {
      break
    }
    const possible = history.findLast((entry) => entry.at < state.issued || entry.at === start)
    if (possible === undefined) {
      throw new Error('nothing is known')
    }
    const below = base?.contents(state.issued, random() < 0.5)
    const problem =
      (await inspect(state.contents, below, possible, recorded)) ??
      (tried.states % judged === 0 ? judge(state.contents, below, recorded) : undefined)
    expect(problem, `operation ${state.issued} of ${log.length}, flush ${state.flushes}`).toBeUndefined()
    tried.judged += tried.states % judged === 0 ? 1 : 0
    tried.states++
  }
  return tried
}

test.each(Object.entries(short))('every state: %s', { timeout: 600_000 }, async (name, workload) => {
  const recorded = await record(workload)
  expect(recorded.refused).toEqual([])
  const tried = await replay(recorded, everything ? 13 : 6, perWorkload, 1)
  expect(tried.states).toBeGreaterThan(10)
  if (everything) {
    console.log(`${name}: ${recorded.log.length} operations, ${tried.states} states, ${tried.judged} by QEMU`)
  }
})

test('a sample of states of long workloads', { timeout: 3_600_000 }, async () => {
  const total: Tried = { states: 0, judged: 0 }
  const perRun = 100
  for (let seed = 1; total.states < long; seed++) {
    const workload = randomWorkload(seed)
    const recorded = await record(workload)
    const tried = await replay(recorded, 4, Math.min(perRun, long), seed)
    total.states += tried.states
    total.judged += tried.judged
    expect(tried.states, `seed ${seed}`).toBeGreaterThan(0)
  }
  if (long > 300) {
    console.log(`long workloads: ${total.states} states, ${total.judged} by QEMU`)
  }
})
