import { expect, test } from 'vitest'
import { type BlockNode, type CreateValues, checkNode, truncateNode } from '../../src/graph/index.js'
import { CrashFiles } from '../../src/testing/index.js'
import { noise } from './built/vmdk.js'
import { createImageAt, filesOf, hostWith, layerOn, memoryHost, seeded } from './format-under-test.js'
import { readAll } from './guest.js'

const MiB = 1 << 20
const how = { exact: false, preallocation: 'off', zero: false } as const
const overlay = '/over.vmdk'
const states = Number(process.env.CRASH_STATES ?? 120)

/** An overlay that ends within a grain, over a base of 3 MiB without a zero; what the overlay reads as. */
async function overLonger(options: CreateValues, size: number, lastGrain: boolean) {
  const host = memoryHost()
  const base = noise(3 * MiB, 5)
  await createImageAt(host, '/base.vmdk', 'vmdk', { size: base.length })
  const layer = layerOn(host)
  let node = await layer.open('/base.vmdk', { driver: 'vmdk' }, { write: true })
  await node.write(0, base.length, base, 0, 0)
  await layer.unref(node)
  await createImageAt(host, overlay, 'vmdk', { ...options, size, backing_file: 'base.vmdk' })
  node = await layer.open(overlay, { driver: 'vmdk' }, { write: true })
  const expected = Buffer.from(base.subarray(0, size))
  for (const at of [65536 + 512, ...(lastGrain ? [size - 512] : [])]) {
    const data = noise(512, at)
    await node.write(at, 512, data, 0, 0)
    data.copy(expected, at)
  }
  await layer.unref(node)
  return { host, expected }
}

async function problemOf(node: BlockNode, expected: Buffer): Promise<string | undefined> {
  const check = await checkNode(node, { leaks: false, errors: false })
  if (check.corruptions + check.checkErrors !== 0) {
    return check.messages.join('; ')
  }
  const data = Buffer.from(await readAll(node))
  if (!data.subarray(0, expected.length).equals(expected)) {
    return 'other contents'
  }
  const foreign = data.subarray(expected.length).findIndex((byte) => byte !== 0)
  return foreign < 0 ? undefined : `the new part shows something at ${expected.length + foreign}`
}

const kinds: [string, CreateValues][] = [
  ['monolithicSparse', {}],
  ['monolithicSparse with zeroed grains', { zeroed_grain: true }],
  ['twoGbMaxExtentSparse', { subformat: 'twoGbMaxExtentSparse' }],
]

test.each(
  kinds.flatMap(([title, options]) =>
    [false, true].flatMap((lastGrain) =>
      [MiB + 1024, MiB + 65536, 2 * MiB + 512, 3 * MiB, 100 * MiB].map(
        (to) => [title, to, lastGrain ? 'is there' : 'is not there', options, lastGrain] as const,
      ),
    ),
  ),
)(
  '%s grows to %d over a longer backing file, whose data does not show; the last grain %s',
  async (_, to, __, options, lastGrain) => {
    const { host, expected } = await overLonger(options, MiB + 512, lastGrain)
    const layer = layerOn(host)
    let node = await layer.open(overlay, { driver: 'vmdk' }, { write: true })
    await truncateNode(node, to, how)
    expect(node.length).toBe(to)
    expect(await problemOf(node, expected)).toBeUndefined()
    const data = noise(3000 * 512, 9).subarray(0, Math.min(3000 * 512, to - expected.length))
    await node.write(to - data.length, data.length, data, 0, 0)
    await layer.unref(node)
    const longer = Buffer.alloc(to)
    expected.copy(longer)
    data.copy(longer, to - data.length)
    node = await layer.open(overlay, { driver: 'vmdk' })
    expect(node.backing?.length).toBe(3 * MiB)
    expect(await problemOf(node, longer)).toBeUndefined()
    await layer.unref(node)
  },
)

test('over a longer backing file that is another one by now nothing grows', async () => {
  const { host } = await overLonger({}, MiB + 512, false)
  const layer = layerOn(host)
  let node = await layer.open('/base.vmdk', { driver: 'vmdk' }, { write: true })
  await node.write(0, 512, noise(512, 1), 0, 0)
  await layer.unref(node)
  const before = filesOf(host)
  node = await layer.open(overlay, { driver: 'vmdk' }, { write: true })
  await expect(truncateNode(node, 2 * MiB, how)).rejects.toMatchObject({ code: 'EINVAL' })
  expect(node.length).toBe(MiB + 512)
  await layer.unref(node)
  for (const [path, bytes] of filesOf(host)) {
    expect(Buffer.compare(bytes, before.get(path) ?? new Uint8Array(0)), path).toBe(0)
  }
})

test.each(kinds)(
  'a power cut while %s grows over a longer backing file leaves the old disk, or the new one with zeroes',
  async (_, options) => {
    const { host, expected } = await overLonger(options, MiB + 512, false)
    const files = filesOf(host)
    const log = new CrashFiles(files)
    const layer = layerOn(hostWith(files, { log: (operation) => log.record(operation) }))
    const node = await layer.open(overlay, { driver: 'vmdk' }, { write: true })
    await truncateNode(node, 40 * MiB, how)
    await layer.unref(node)
    const lengths = await trySome(log, overlay, expected)
    expect([...lengths].sort()).toEqual([MiB + 512, 40 * MiB])
  },
)

/** Opens what a power cut may have left; the lengths that were seen. Each state must hold `expected`, then zeroes. */
async function trySome(log: CrashFiles, path: string, expected: Buffer): Promise<Set<number>> {
  const random = seeded(4)
  const lengths = new Set<number>()
  const keep = Math.min(1, states / (log.length * 5))
  for (const state of log.states({ random, samples: 2 })) {
    // Those after the last operation are always among them.
    if (random() >= keep && state.issued < log.length) {
      continue
    }
    const layer = layerOn(hostWith(state.contents))
    const node = await layer.open(path, { driver: 'vmdk' }, { write: true })
    lengths.add(node.length)
    expect(await problemOf(node, expected), `${state.issued} operations`).toBeUndefined()
    await layer.unref(node)
  }
  return lengths
}

test('a power cut while a split flat disk grows, whose descriptor has two sectors', async () => {
  const fresh = memoryHost()
  const path = `/${'a-name-of-some-length-'.repeat(6)}disk.vmdk`
  await createImageAt(fresh, path, 'vmdk', { subformat: 'twoGbMaxExtentFlat', size: MiB })
  // The first of two extents is small, so that the disk can be read quickly.
  const [flat = ''] = fresh.paths.filter((name) => name.includes('-f001'))
  const second = flat.replace('-f001', '-f002')
  fresh.put(second, noise(MiB, 3))
  fresh.put(flat, noise(MiB, 2))
  const text = Buffer.from(fresh.contents(path)?.bytes() ?? []).toString('latin1')
  const line = /^RW .*\n/m.exec(text)?.[0] ?? ''
  const longer = text.replace(line, line + line.replace('-f001', '-f002').replace('2048', '900'))
  fresh.put(path, Buffer.from(longer, 'latin1'))
  expect(longer.length).toBeGreaterThan(512)
  const expected = Buffer.concat([noise(MiB, 2), noise(MiB, 3).subarray(0, 900 * 512)])
  const files = filesOf(fresh)
  const log = new CrashFiles(files)
  const layer = layerOn(hostWith(files, { log: (operation) => log.record(operation) }))
  const node = await layer.open(path, { driver: 'vmdk' }, { write: true })
  expect(node.length).toBe(expected.length)
  await truncateNode(node, 4 * MiB, how)
  await layer.unref(node)
  const lengths = await trySome(log, path, expected)
  expect([...lengths].sort()).toEqual([expected.length, 4 * MiB])
})
