import { expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { type BlockNode, checkNode, createBlockLayer, createWithDriver } from '../../src/graph/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { CrashLog, MemoryHost } from '../../src/testing/index.js'

/**
 * Power-cut replay: a random script runs on an image whose file operations are recorded; every state
 * a crash could leave is opened, checked (no corruption; leaks are allowed) and read back (what was
 * flushed is there or something later; nothing of another guest sector ever shows).
 * `CRASH_SEEDS` and `CRASH_STATES` set how much is tried.
 */
const seeds = Number(process.env.CRASH_SEEDS ?? 4)
const maxStates = Number(process.env.CRASH_STATES ?? 400)

const sector = 512
const clusterSize = 1024
const guestSectors = 96
const path = '/image.qcow2'

function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

/** A sector that says which guest sector it belongs to and which write made it. */
function stamp(guest: number, generation: number): Uint8Array {
  const bytes = new Uint8Array(sector)
  const view = new DataView(bytes.buffer)
  for (let at = 0; at < sector; at += 8) {
    view.setUint32(at, guest + 1)
    view.setUint32(at + 4, generation)
  }
  return bytes
}

/** What the backing file holds: every sector stamped as the first write. */
function backingContents(): Uint8Array {
  const bytes = new Uint8Array(guestSectors * sector)
  for (let guest = 0; guest < guestSectors; guest++) {
    bytes.set(stamp(guest, 1), guest * sector)
  }
  return bytes
}

class Guest {
  /** Generations a sector may show: what was flushed last, and everything since. 0 = zeroes. */
  readonly possible: Set<number>[]
  readonly current: number[]
  /** The possibilities at each number of recorded operations. */
  readonly history: { at: number; possible: Set<number>[] }[] = []

  constructor(initial: number) {
    this.possible = Array.from({ length: guestSectors }, () => new Set([initial]))
    this.current = Array.from({ length: guestSectors }, () => initial)
  }

  note(guest: number, generation: number): void {
    this.possible[guest]?.add(generation)
    this.current[guest] = generation
  }

  save(at: number): void {
    this.history.push({ at, possible: this.possible.map((set) => new Set(set)) })
  }

  flushed(): void {
    this.current.forEach((generation, guest) => {
      const set = this.possible[guest]
      set?.clear()
      set?.add(generation)
    })
  }
}

async function run(
  seed: number,
  version: string,
  backed: boolean,
  extended: boolean,
): Promise<{ log: CrashLog; guest: Guest }> {
  const random = seeded(seed)
  const log = new CrashLog()
  const host = new MemoryHost({
    codecs: createNodeHost().codecs,
    log: (operation) => {
      if (operation.path === path) {
        log.record(operation)
      }
    },
  })
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, driver, path, {
    size: guestSectors * sector,
    cluster_size: extended ? 32 * sector : clusterSize,
    compat: version,
    ...(extended ? { extended_l2: true } : {}),
    ...(backed ? { backing_file: '/base', backing_fmt: 'raw' } : {}),
  })
  host.put('/base', backingContents())
  const created = log.length
  const guest = new Guest(backed ? 1 : 0)
  const node = await layer.open(
    path,
    { driver: 'qcow2', discard: 'unmap', 'l2-cache-size': 2048 },
    { write: true },
  )
  guest.save(created)
  let generation = 1
  for (let step = 0; step < 40; step++) {
    const action = random()
    const first = Math.floor(random() * guestSectors)
    const count = Math.min(guestSectors - first, 1 + Math.floor(random() * 6))
    if (action < 0.55) {
      const data = new Uint8Array(count * sector)
      generation++
      for (let i = 0; i < count; i++) {
        data.set(stamp(first + i, generation), i * sector)
        guest.note(first + i, generation)
      }
      guest.save(log.length)
      await node.write(first * sector, data.length, data, 0, 0)
    } else if (action < 0.8) {
      const from = first - (first % 2)
      const whole = Math.min(guestSectors - from, count + (count % 2))
      for (let i = 0; i < whole; i++) {
        guest.note(from + i, 0)
      }
      guest.save(log.length)
      // A discard leaves alone what is no whole cluster.
      if (action < 0.7 || version === '0.10' || extended) {
        await node.writeZeroes(from * sector, whole * sector, action < 0.62 ? 4 : 0)
      } else {
        await node.discard(from * sector, whole * sector)
      }
    } else {
      await node.flush()
      guest.flushed()
      guest.save(log.length)
    }
  }
  await layer.unref(node)
  guest.flushed()
  guest.save(log.length)
  return { log, guest }
}

async function readAll(node: BlockNode): Promise<Uint8Array> {
  const bytes = new Uint8Array(guestSectors * sector)
  await node.read(0, bytes.length, bytes, 0, 0)
  return bytes
}

/** What is wrong with a crash state, or undefined. */
async function inspect(contents: Uint8Array, possible: readonly Set<number>[]): Promise<string | undefined> {
  const host = new MemoryHost({ codecs: createNodeHost().codecs })
  host.put(path, contents)
  host.put('/base', backingContents())
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const node = await layer.open(path, { driver: 'qcow2' })
  try {
    const check = await checkNode(node, { leaks: false, errors: false })
    if (check.corruptions !== 0 || check.checkErrors !== 0) {
      return check.messages.join('; ')
    }
    const bytes = await readAll(node)
    const view = new DataView(bytes.buffer)
    for (let guest = 0; guest < guestSectors; guest++) {
      const owner = view.getUint32(guest * sector)
      const generation = view.getUint32(guest * sector + 4)
      if (owner !== 0 && owner !== guest + 1) {
        return `sector ${guest} shows sector ${owner - 1}`
      }
      if (!possible[guest]?.has(owner === 0 ? 0 : generation)) {
        return `sector ${guest} shows write ${generation}, possible are ${[...(possible[guest] ?? [])].join(' ')}`
      }
    }
    return undefined
  } finally {
    await layer.unref(node)
  }
}

const cases = [
  { version: '1.1', backed: false },
  { version: '0.10', backed: false },
  { version: '1.1', backed: true },
  { version: '0.10', backed: true },
  { version: '1.1', backed: false, extended: true },
  { version: '1.1', backed: true, extended: true },
]

for (const { version, backed, extended = false } of cases) {
  const kind = `qcow2 ${version} image${extended ? ' with extended L2 entries' : ''}${backed ? ' with a backing file' : ''}`
  test(`a crash at any write of a ${kind} leaves no corruption and no foreign data`, async () => {
    for (let seed = 1; seed <= (extended ? Math.ceil(seeds / 2) : seeds); seed++) {
      const { log, guest } = await run(seed, version, backed, extended)
      const random = seeded(seed + 1000)
      const start = guest.history[0]?.at ?? 0
      let tried = 0
      const all = [...log.states({ random, exhaustive: 5, samples: 6 })].filter(
        (state) => state.issued >= start,
      )
      const every = Math.max(1, Math.floor(all.length / maxStates))
      for (let i = Math.floor(random() * every); i < all.length; i += every) {
        const state = all[i]
        if (state === undefined) {
          break
        }
        // The newest possibilities noted before this operation was issued.
        const noted = guest.history.filter((entry) => entry.at < state.issued || entry.at === start).at(-1)
        const problem = await inspect(state.contents, noted?.possible ?? [])
        expect(problem, `seed ${seed}, ${state.issued} operations, ${state.flushes} flushes`).toBeUndefined()
        tried++
      }
      expect(tried).toBeGreaterThan(50)
    }
  })
}
