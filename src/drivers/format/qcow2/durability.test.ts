import { expect, test } from 'vitest'
import { type ErrnoName, isBlockError } from '../../../errors/index.js'
import { type BlockNode, createBlockLayer, createWithDriver, truncateNode } from '../../../graph/index.js'
import { ReqFlags } from '../../../io/index.js'
import { NodeCodecs } from '../../../platform/node/codecs.js'
import { CrashLog, MemoryHost } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { checkBytes, Random } from './image-fixture.js'
import { qcow2 } from './index.js'

/**
 * Scripts that also compress, resize and outgrow refcount blocks, on tiny clusters, under faults and
 * power cuts. `QCOW2_SEEDS` sets how many are tried.
 */
const seeds = Number(process.env.QCOW2_SEEDS ?? 3)
const path = '/image'
const cluster = 512
const codecs = new NodeCodecs()

interface Hooks {
  readonly fault?: (kind: string) => ErrnoName | undefined
  readonly log?: CrashLog
  readonly delayed: boolean
}

/** Runs script `seed`. `tolerate` sees the errors of requests; without it they fail the test. */
async function script(seed: number, hooks: Hooks, tolerate?: (error: unknown) => void): Promise<MemoryHost> {
  const random = new Random(seed)
  const timing = new Random(seed + 77)
  let live = false
  const { fault, log } = hooks
  const host = new MemoryHost({
    codecs,
    delay: () => (hooks.delayed ? timing.below(3) : 0),
    ...(fault === undefined ? {} : { fault: (operation) => (live ? fault(operation.kind) : undefined) }),
    ...(log === undefined ? {} : { log: (operation) => log.record(operation) }),
  })
  const layer = createBlockLayer({ host, drivers: [qcow2, file] })
  const version = random.chance(0.3) ? '0.10' : '1.1'
  await createWithDriver(layer, qcow2, path, {
    size: 120 * cluster,
    compat: version,
    cluster_size: cluster,
    refcount_bits: version === '0.10' ? 16 : random.pick([1, 16, 64, 64, 64]),
  })
  const node = await layer.open(path, { driver: 'qcow2', discard: 'unmap' }, { write: true })
  live = true
  for (let step = 0; step < 60; step++) {
    try {
      await request(node, random)
    } catch (error) {
      if (tolerate === undefined) {
        throw error
      }
      tolerate(error)
    }
  }
  try {
    await layer.unref(node)
  } catch (error) {
    tolerate?.(error)
  }
  return host
}

async function request(node: BlockNode, random: Random): Promise<void> {
  const start = random.below(node.length / 512) * 512
  const bytes = Math.min(node.length - start, (1 + random.below(12)) * 512)
  switch (random.below(9)) {
    case 0:
      await node.flush()
      break
    case 1:
      await node.writeZeroes(start, bytes, random.chance(0.5) ? ReqFlags.mayUnmap : 0)
      break
    case 2:
      await node.discard(start, bytes)
      break
    case 3: {
      const length = random.below(300) * cluster + 512
      const preallocation = length > node.length ? random.pick(['off', 'metadata', 'falloc'] as const) : 'off'
      // Host clusters allocated ahead show what was there before unless zeroes are asked for.
      const zero = preallocation !== 'off' || random.chance(0.5)
      await truncateNode(node, length, { exact: true, preallocation, zero })
      break
    }
    case 4:
    case 5:
      try {
        await node.write(start, cluster, stamped(start, cluster), 0, ReqFlags.writeCompressed)
      } catch (error) {
        // Compression overwrites nothing; a fault may look the same.
        if (!isBlockError(error) || error.code !== 'EIO') {
          throw error
        }
      }
      break
    default:
      await node.write(start, bytes, stamped(start, bytes), 0, 0)
  }
}

/** Every 8 bytes say at which guest offset they were written. */
function stamped(start: number, bytes: number): Uint8Array {
  const data = new Uint8Array(bytes)
  const view = new DataView(data.buffer)
  for (let at = 0; at < bytes; at += 8) {
    view.setUint32(at, 0x5a5a5a5a)
    view.setUint32(at + 4, Math.floor((start + at) / 512))
  }
  return data
}

/** What is wrong with an image by its bytes, or with what it shows. */
async function inspect(contents: Uint8Array): Promise<string[]> {
  const { corrupt } = checkBytes(contents)
  if (corrupt.length !== 0) {
    return corrupt
  }
  const host = new MemoryHost({ codecs })
  host.put(path, contents)
  const layer = createBlockLayer({ host, drivers: [qcow2, file] })
  const node = await layer.open(path, { driver: 'qcow2' })
  const data = new Uint8Array(node.length)
  await node.read(0, data.length, data, 0, 0)
  await layer.unref(node)
  const view = new DataView(data.buffer)
  const problems: string[] = []
  for (let at = 0; at < data.length; at += 8) {
    const mark = view.getUint32(at)
    const owner = view.getUint32(at + 4)
    if (!(mark === 0 && owner === 0) && !(mark === 0x5a5a5a5a && owner === Math.floor(at / 512))) {
      problems.push(`guest offset ${at} shows ${mark.toString(16)} ${owner}`)
      at += 512 - (at % 512) - 8
    }
  }
  return problems
}

for (const delayed of [false, true]) {
  const how = delayed ? 'asynchronous' : 'synchronous'

  test(`nothing leaks when nothing fails (${how} file)`, async () => {
    for (let seed = 1; seed <= seeds * 5; seed++) {
      const host = await script(seed, { delayed })
      expect(host.warnings).toEqual([])
      const contents = host.contents(path)?.bytes() ?? new Uint8Array(0)
      expect(checkBytes(contents), `seed ${seed}`).toEqual({ corrupt: [], leaked: [] })
      expect(await inspect(contents)).toEqual([])
    }
  })

  test(`any one operation below may fail (${how} file)`, async () => {
    let felt = 0
    for (let seed = 1; seed <= seeds; seed++) {
      let operations = 0
      const count = (kind: string): undefined => {
        operations += kind === 'read' ? 0 : 1
      }
      await script(seed, { delayed, fault: count })
      const total = operations
      for (let failAt = 0; failAt < total; failAt += 2) {
        operations = 0
        const code = failAt % 2 === 0 ? 'EIO' : 'ENOSPC'
        const fault = (kind: string): ErrnoName | undefined =>
          kind !== 'read' && operations++ === failAt ? code : undefined
        const host = await script(seed, { delayed, fault }, (error) => {
          // Once a flush has failed the file below fails for good.
          expect(isBlockError(error) && ['EIO', code].includes(error.code), String(error)).toBe(true)
          felt++
        })
        const contents = host.contents(path)?.bytes() ?? new Uint8Array(0)
        expect(await inspect(contents), `seed ${seed}, operation ${failAt} of ${total}`).toEqual([])
      }
    }
    expect(felt).toBeGreaterThan(20)
  })
}

test('the power may go at any write', async () => {
  for (let seed = 1; seed <= seeds; seed++) {
    const log = new CrashLog()
    await script(seed, { delayed: false, log })
    const random = new Random(seed)
    const states = [
      ...log.states({ random: () => random.below(1 << 20) / (1 << 20), exhaustive: 4, samples: 5 }),
    ]
    // The first states are those of create, when there is no image yet.
    const first = states.findIndex(({ contents }) => contents[0] === 0x51)
    const every = Math.max(1, Math.floor((states.length - first) / 600))
    let tried = 0
    for (let i = first + random.below(every); i < states.length; i += every) {
      const state = states[i]
      if (state !== undefined) {
        expect(await inspect(state.contents), `seed ${seed}, ${state.issued} operations`).toEqual([])
        tried++
      }
    }
    expect(tried).toBeGreaterThan(100)
  }
})
