import { expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { type ErrnoName, isBlockError } from '../../src/errors/index.js'
import { type BlockNode, checkNode, createBlockLayer, createWithDriver } from '../../src/graph/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { MemoryHost } from '../../src/testing/index.js'

/**
 * The same random script is run once for each write, flush, zeroing or truncation it makes, with that
 * one failing. The request may fail, with that errno; the image must stay free of corruption, keep
 * everything whose write was reported as done, and go on working.
 * `FAULT_SEEDS` and `FAULT_POINTS` set how much is tried.
 */
const seeds = Number(process.env.FAULT_SEEDS ?? 3)
const maxPoints = Number(process.env.FAULT_POINTS ?? 40)

const path = '/image.qcow2'
const dataPath = '/image.raw'
const unit = 512
const units = 128
const clusterSize = 1024
const codecs = createNodeHost().codecs

function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

interface Outcome {
  readonly operations: number
  readonly failed: boolean
  readonly problem: string | undefined
}

type Features = Readonly<Record<string, string | number | boolean>>

async function run(
  seed: number,
  failAt: number,
  code: ErrnoName,
  refcountBits: number,
  features: Features = {},
): Promise<Outcome> {
  const random = seeded(seed)
  let operations = 0
  let armed = false
  const host = new MemoryHost({
    codecs,
    fault: (operation) => {
      if (!armed || operation.kind === 'read') {
        return undefined
      }
      return operations++ === failAt ? code : undefined
    },
    delay: () => (random() < 0.3 ? 2 : 0),
  })
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  const size = units * unit
  await createWithDriver(layer, driver, path, {
    size,
    cluster_size: clusterSize,
    refcount_bits: refcountBits,
    ...features,
  })
  const node = await layer.open(path, { driver: 'qcow2', discard: 'unmap' }, { write: true })
  armed = true
  /** What each unit may hold; undefined: a failed request left it open. */
  const model: (number | undefined)[] = Array.from({ length: units }, () => 0)
  let failed = false
  for (let step = 0; step < 30; step++) {
    const action = random()
    const first = Math.floor(random() * units)
    const count = Math.min(units - first, 1 + Math.floor(random() * 8))
    const value = step + 1
    const zero = action >= 0.55
    try {
      if (!zero) {
        await node.write(first * unit, count * unit, new Uint8Array(count * unit).fill(value), 0, 0)
      } else if (action < 0.8) {
        await node.writeZeroes(first * unit, count * unit, action < 0.7 ? 4 : 0)
      } else {
        await node.flush()
        continue
      }
      model.fill(zero ? 0 : value, first, first + count)
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
      expect(error.code).toBe(code)
      failed = true
      if (action < 0.8) {
        model.fill(undefined, first, first + count)
      }
    }
  }
  try {
    await layer.unref(node)
  } catch (error) {
    expect(isBlockError(error) && error.code).toBe(code)
    failed = true
    return { operations, failed, problem: await inspect(host, []) }
  }
  return { operations, failed, problem: await inspect(host, model) }
}

async function inspect(
  host: MemoryHost,
  model: readonly (number | undefined)[],
): Promise<string | undefined> {
  const fresh = new MemoryHost({ codecs })
  fresh.put(path, host.contents(path)?.bytes())
  const data = host.contents(dataPath)?.bytes()
  if (data !== undefined) {
    fresh.put(dataPath, data)
  }
  const layer = createBlockLayer({ host: fresh, drivers: allDrivers })
  const node: BlockNode = await layer.open(path, { driver: 'qcow2' })
  try {
    const check = await checkNode(node, { leaks: false, errors: false })
    if (check.corruptions !== 0 || check.checkErrors !== 0) {
      return check.messages.join('; ')
    }
    const got = new Uint8Array(units * unit)
    await node.read(0, got.length, got, 0, 0)
    for (const [at, value] of model.entries()) {
      if (value !== undefined && (got[at * unit] !== value || got[at * unit + unit - 1] !== value)) {
        return `unit ${at} holds ${got[at * unit]}, written was ${value}`
      }
    }
    return undefined
  } finally {
    await layer.unref(node)
  }
}

for (const code of ['EIO', 'ENOSPC'] as const) {
  test(`${code} from any one operation below corrupts nothing and loses nothing`, async () => {
    let failures = 0
    for (let seed = 1; seed <= seeds; seed++) {
      const refcountBits = [16, 1, 8][seed % 3] ?? 16
      const clean = await run(seed, -1, code, refcountBits)
      expect([clean.failed, clean.problem]).toEqual([false, undefined])
      const every = Math.max(1, Math.floor(clean.operations / maxPoints))
      for (let at = 0; at < clean.operations; at += every) {
        const { failed, problem } = await run(seed, at, code, refcountBits)
        expect(problem, `seed ${seed}, operation ${at}`).toBeUndefined()
        failures += failed ? 1 : 0
      }
    }
    // The faults must have been felt.
    expect(failures).toBeGreaterThan(10)
  })
}

const shapes: readonly { readonly name: string; readonly features: Features }[] = [
  { name: 'extended L2 entries', features: { extended_l2: true, cluster_size: 16384 } },
  { name: 'an external data file', features: { data_file: dataPath } },
  { name: 'a raw external data file', features: { data_file: dataPath, data_file_raw: true } },
  {
    name: 'extended L2 entries and an external data file',
    features: { extended_l2: true, cluster_size: 16384, data_file: dataPath },
  },
]

test.each(shapes)('a failure of any one operation below an image with $name', async ({ features }) => {
  let failures = 0
  const seed = 1
  const clean = await run(seed, -1, 'EIO', 16, features)
  expect([clean.failed, clean.problem]).toEqual([false, undefined])
  const every = Math.max(1, Math.floor(clean.operations / maxPoints))
  for (let at = 0; at < clean.operations; at += every) {
    const { failed, problem } = await run(seed, at, 'EIO', 16, features)
    expect(problem, `operation ${at}`).toBeUndefined()
    failures += failed ? 1 : 0
  }
  expect(failures).toBeGreaterThan(10)
})
