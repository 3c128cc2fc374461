import { expect, test } from 'vitest'
import { type BlockNode, type CreateValues, checkNode, truncateNode } from '../../src/graph/index.js'
import { CrashFiles } from '../../src/testing/index.js'
import { noise } from './built/vmdk.js'
import { createImageAt, filesOf, hostWith, layerOn, memoryHost, seeded } from './format-under-test.js'
import { readAll } from './guest.js'

const MiB = 1 << 20
const how = { exact: false, preallocation: 'off', zero: false } as const
const overlay = '/over.vmdk'
const states = Number(process.env.CRASH_STATES ?? 60)

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
  // All that a backing file of 3 MiB could show, and the end.
  const data = Buffer.from(await readAll(node, Math.min(node.length, 5 * MiB)))
  const end = new Uint8Array(Math.min(node.length, MiB))
  await node.read(node.length - end.length, end.length, end, 0, 0)
  const whole = Buffer.alloc(node.length)
  expected.copy(whole)
  if (!data.equals(whole.subarray(0, data.length))) {
    return data.subarray(0, expected.length).equals(expected)
      ? 'the new part shows something'
      : 'other contents'
  }
  return whole.subarray(node.length - end.length).equals(end) ? undefined : 'other contents at the end'
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

test.each([
  ...kinds,
  ['monolithicFlat', { subformat: 'monolithicFlat' }] as const,
  ['twoGbMaxExtentFlat', { subformat: 'twoGbMaxExtentFlat' }] as const,
])(
  'any one operation that fails while %s grows leaves a disk that can grow again',
  async (title, options) => {
    const isFlat = title.endsWith('Flat')
    const start = isFlat ? await flatDisk(options) : await overLonger(options, MiB + 512, false)
    const files = filesOf(start.host)
    let failures = 0
    for (let failAt = 0, isFelt = true; isFelt; failAt++) {
      let operations = 0
      let armed = false
      let isFlush = false
      isFelt = false
      const host = hostWith(files, {
        fault: ({ kind }) => {
          const isNow = armed && kind !== 'read' && operations++ === failAt
          isFelt ||= isNow
          isFlush ||= isNow && kind === 'flush'
          return isNow ? 'EIO' : undefined
        },
      })
      const layer = layerOn(host)
      let node = await layer.open(overlay, { driver: 'vmdk' }, { write: true })
      armed = true
      const note = `operation ${failAt}`
      try {
        await truncateNode(node, 40 * MiB, how)
      } catch (error) {
        expect(error, note).toMatchObject({ code: 'EIO' })
        failures++
      }
      armed = false
      expect([start.expected.length, 40 * MiB], note).toContain(node.length)
      expect(await problemOf(node, start.expected), note).toBeUndefined()
      if (isFlush) {
        // Nobody knows any more what is on the disk: such a file has to be opened again.
        await expect(Promise.resolve(layer.unref(node))).rejects.toMatchObject({ code: 'EIO' })
        node = await layer.open(overlay, { driver: 'vmdk' }, { write: true })
        expect([start.expected.length, 40 * MiB], note).toContain(node.length)
      }
      // Another time it need not become as long.
      const length = isFlush ? 36 * MiB : 2 * MiB
      if (node.length < length) {
        await truncateNode(node, length, how)
        expect(node.length).toBe(length)
        expect(await problemOf(node, start.expected), note).toBeUndefined()
        await node.write(length - 512, 512, new Uint8Array(512), 0, 0)
      }
      await layer.unref(node)
      node = await layer.open(overlay, { driver: 'vmdk' })
      expect([length, 40 * MiB], note).toContain(node.length)
      expect(await problemOf(node, start.expected), note).toBeUndefined()
      await layer.unref(node)
    }
    expect(failures).toBeGreaterThan(isFlat ? 3 : 8)
  },
)

test('a disk whose directory was made longer before its descriptor could not be written grows to less then', async () => {
  const GiB = 1024 * MiB
  let armed = false
  const host = memoryHost({
    fault: (operation) =>
      armed && operation.kind === 'write' && operation.offset >= 512 && operation.offset < 10_752
        ? 'EIO'
        : undefined,
  })
  await createImageAt(host, overlay, 'vmdk', { size: MiB })
  const layer = layerOn(host)
  let node = await layer.open(overlay, { driver: 'vmdk' }, { write: true })
  const data = noise(512, 4)
  await node.write(MiB - 512, 512, data, 0, 0)
  armed = true
  await expect(truncateNode(node, 20 * GiB, how)).rejects.toMatchObject({ code: 'EIO' })
  expect(node.length).toBe(MiB)
  armed = false
  await truncateNode(node, 3 * GiB, how)
  await node.write(3 * GiB - 512, 512, data, 0, 0)
  await layer.unref(node)
  node = await layer.open(overlay, { driver: 'vmdk' }, { write: true })
  expect(node.length).toBe(3 * GiB)
  await truncateNode(node, 30 * GiB, how)
  await node.write(30 * GiB - 512, 512, data, 0, 0)
  await layer.unref(node)
  node = await layer.open(overlay, { driver: 'vmdk' })
  for (const end of [MiB, 3 * GiB, 30 * GiB]) {
    const read = new Uint8Array(1024)
    await node.read(end - 1024, 1024, read, 0, 0)
    expect(Buffer.compare(read, Buffer.concat([Buffer.alloc(512), data]))).toBe(0)
  }
  expect((await checkNode(node, { leaks: false, errors: false })).corruptions).toBe(0)
  await layer.unref(node)
})

async function flatDisk(options: CreateValues) {
  const host = memoryHost()
  await createImageAt(host, overlay, 'vmdk', { ...options, size: MiB + 512 })
  const [flat = ''] = host.paths.filter((name) => /-(flat|f001)/.test(name))
  const expected = noise(MiB + 512, 2)
  // What stands behind the end of the disk must not show when it grows.
  host.put(flat, Buffer.concat([expected, noise(70_000, 3)]))
  return { host, expected }
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
