import { expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import {
  applySnapshot,
  type BlockNode,
  checkNode,
  createBlockLayer,
  createSnapshot,
  createWithDriver,
  listSnapshots,
  loadSnapshot,
  removeSnapshot,
} from '../../src/graph/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { CrashLog, MemoryHost } from '../../src/testing/index.js'

/**
 * Power cuts in the middle of snapshot operations and of repairs. Whatever is left of the file: the guest
 * and every snapshot that is listed read as before or as after, writing right away does not reach
 * a snapshot, and a repair makes the image clean without changing what is read.
 */
const maxStates = Number(process.env.CRASH_STATES ?? 60)
const path = '/image.qcow2'
const size = 96 * 1024

function host(contents?: Uint8Array, log?: CrashLog): MemoryHost {
  const made = new MemoryHost({
    codecs: createNodeHost().codecs,
    ...(log === undefined
      ? {}
      : {
          log: (operation) => {
            if (operation.path === path) {
              log.record(operation)
            }
          },
        }),
  })
  if (contents !== undefined) {
    made.put(path, contents)
  }
  return made
}

function layerOf(from: MemoryHost) {
  return createBlockLayer({ host: from, drivers: allDrivers })
}

function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

async function readAll(node: BlockNode): Promise<string> {
  const bytes = new Uint8Array(size)
  await node.read(0, size, bytes, 0, 0)
  return Buffer.from(bytes).toString('base64')
}

/** What can be read of an image: the guest as '', each snapshot by its name. */
async function contents(image: Uint8Array): Promise<Map<string, string>> {
  const seen = new Map<string, string>()
  const layer = layerOf(host(image))
  const node = await layer.open(path, { driver: 'qcow2' })
  seen.set('', await readAll(node))
  const names = (listSnapshots(node) ?? []).map(({ name }) => name)
  await layer.unref(node)
  for (const name of names) {
    const reader = await layer.open(path, { driver: 'qcow2' })
    await loadSnapshot(reader, undefined, name)
    seen.set(name, await readAll(reader))
    await layer.unref(reader)
  }
  return seen
}

async function fill(node: BlockNode, offset: number, bytes: number, value: number): Promise<void> {
  await node.write(offset, bytes, new Uint8Array(bytes).fill(value), 0, 0)
}

function snapshot(name: string) {
  return { id: '', name, dateSeconds: 1, dateNanoseconds: 0, vmClockNanoseconds: 0n, vmStateSize: 0 }
}

/** An image with data and, if wanted, two snapshots with writes in between. */
async function sample(options: Record<string, string | number>, snapshots: boolean): Promise<Uint8Array> {
  const from = host()
  const layer = layerOf(from)
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, driver, path, { size, cluster_size: 512, ...options })
  const node = await layer.open(path, { driver: 'qcow2' }, { write: true })
  await fill(node, 0, 20 * 1024, 1)
  await fill(node, 64 * 1024, 4 * 1024, 2)
  if (snapshots) {
    await createSnapshot(node, snapshot('one'))
    await fill(node, 4 * 1024, 3 * 1024, 3)
    await createSnapshot(node, snapshot('two'))
    await fill(node, 70 * 1024, 2 * 1024, 4)
  }
  await layer.unref(node)
  return from.contents(path)?.bytes() ?? new Uint8Array(0)
}

type Action = (node: BlockNode) => Promise<unknown>

/** Checks every state that a crash during `action` may leave of `image`. */
async function replay(image: Uint8Array, action: Action, seed: number): Promise<void> {
  const log = new CrashLog()
  const from = host(image, log)
  const layer = layerOf(from)
  const node = await layer.open(path, { driver: 'qcow2' }, { write: true })
  const start = log.length
  await action(node)
  await layer.unref(node)
  const before = await contents(image)
  const after = await contents(from.contents(path)?.bytes() ?? new Uint8Array(0))
  const random = seeded(seed)
  // Operations before the action are part of opening; the file existed before all of them.
  const all = [...log.states({ random, exhaustive: 4, samples: 5, initial: image })].filter(
    (state) => state.issued >= start,
  )
  expect(all.length).toBeGreaterThan(5)
  const every = Math.max(1, Math.floor(all.length / maxStates))
  for (let i = 0; i < all.length; i += every) {
    const state = all[i]
    if (state !== undefined) {
      await inspect(state.contents, before, after, `state ${i} of ${all.length}`)
    }
  }
}

async function inspect(
  image: Uint8Array,
  before: Map<string, string>,
  after: Map<string, string>,
  what: string,
): Promise<void> {
  const possible = (seen: Map<string, string>, guest: boolean) => {
    for (const [name, bytes] of seen) {
      if (name !== '' || guest) {
        expect([before.get(name), after.get(name)].includes(bytes), `${what}: '${name}'`).toBe(true)
      }
    }
  }
  const seen = await contents(image)
  possible(seen, true)
  // Whoever writes at once may not reach a snapshot.
  const written = host(image)
  const layer = layerOf(written)
  const node = await layer.open(path, { driver: 'qcow2' }, { write: true })
  await fill(node, 3 * 1024, 30 * 1024, 0xee)
  await layer.unref(node)
  possible(await contents(written.contents(path)?.bytes() ?? image), false)
  // A repair leaves nothing to complain about, and the same contents.
  const repaired = host(image)
  const repairLayer = layerOf(repaired)
  const broken = await repairLayer.open(path, { driver: 'qcow2' }, { write: true, check: true })
  await checkNode(broken, { leaks: true, errors: true })
  const check = await checkNode(broken, { leaks: false, errors: false })
  await repairLayer.unref(broken)
  expect(check.messages, what).toEqual([])
  expect(await contents(repaired.contents(path)?.bytes() ?? image), what).toEqual(seen)
}

const kinds = [{}, { compat: '0.10' }, { refcount_bits: 64 }]

for (const options of kinds) {
  const kind = JSON.stringify(options)
  test(`a crash while a snapshot is created: ${kind}`, async () => {
    await replay(await sample(options, false), (node) => createSnapshot(node, snapshot('new')), 1)
    await replay(await sample(options, true), (node) => createSnapshot(node, snapshot('new')), 2)
  })

  test(`a crash while a snapshot is applied: ${kind}`, async () => {
    await replay(await sample(options, true), (node) => applySnapshot(node, 'one'), 3)
    await replay(await sample(options, true), (node) => applySnapshot(node, 'two'), 4)
  })

  test(`a crash while a snapshot is removed: ${kind}`, async () => {
    await replay(await sample(options, true), (node) => removeSnapshot(node, '1', 'one'), 5)
    await replay(await sample(options, true), (node) => removeSnapshot(node, '2', 'two'), 6)
  })
}

/** Damages metadata of a sound image in ways that do not change what is read. */
const damages: Readonly<Record<string, (view: DataView) => void>> = {
  'lost refcounts': (view) => {
    const block = Number(view.getBigUint64(Number(view.getBigUint64(48))))
    for (let cluster = 5; cluster < 60; cluster++) {
      view.setUint16(block + cluster * 2, 0)
    }
  },
  'refcounts too high': (view) => {
    const block = Number(view.getBigUint64(Number(view.getBigUint64(48))))
    for (let cluster = 5; cluster < 60; cluster += 3) {
      view.setUint16(block + cluster * 2, 9)
    }
  },
  'no refcount table': (view) => {
    view.setUint32(56, 0)
  },
  'copied flags gone': (view) => {
    const l1 = Number(view.getBigUint64(40))
    for (let i = 0; i < view.getUint32(36); i++) {
      if (view.getBigUint64(l1 + i * 8) !== 0n) {
        view.setUint8(l1 + i * 8, view.getUint8(l1 + i * 8) ^ 0x80)
      }
    }
  },
  'a refcount block outside': (view) => {
    view.setBigUint64(Number(view.getBigUint64(48)) + 8, BigInt(view.byteLength) * 2n)
  },
}

test.each(Object.keys(damages))('a crash during a repair: %s', async (name) => {
  for (const snapshots of [false, true]) {
    const image = (await sample({}, snapshots)).slice()
    const damagedBytes = Uint8Array.from(image)
    damages[name]?.(new DataView(damagedBytes.buffer))
    await replayRepair(damagedBytes, (node) => checkNode(node, { leaks: true, errors: true }))
  }
})

/** Like {@link replay}, but nothing may be written before a repair is complete. */
async function replayRepair(image: Uint8Array, repair: Action): Promise<void> {
  const log = new CrashLog()
  const from = host(image, log)
  const layer = layerOf(from)
  const node = await layer.open(path, { driver: 'qcow2' }, { write: true, check: true })
  await repair(node)
  await layer.unref(node)
  const whole = await contents(from.contents(path)?.bytes() ?? new Uint8Array(0))
  const random = seeded(9)
  const all = [...log.states({ random, exhaustive: 4, samples: 5, initial: image })]
  const every = Math.max(1, Math.floor(all.length / maxStates))
  expect(all.length).toBeGreaterThan(1)
  for (let i = 0; i < all.length; i += every) {
    const state = all[i]
    if (state === undefined) {
      break
    }
    const again = host(state.contents)
    const second = layerOf(again)
    const broken = await second.open(path, { driver: 'qcow2' }, { write: true, check: true })
    await repair(broken)
    const check = await checkNode(broken, { leaks: false, errors: false })
    await second.unref(broken)
    expect(check.messages, `state ${i} of ${all.length}`).toEqual([])
    expect(await contents(again.contents(path)?.bytes() ?? image), `state ${i}`).toEqual(whole)
  }
}
