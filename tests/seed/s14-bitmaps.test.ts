import { describe, expect, test } from 'vitest'
import {
  addDirtyBitmap,
  type BlockNode,
  clearDirtyBitmap,
  createWithDriver,
  type DirtyBitmap,
  defaultBitmapGranularity,
  disableDirtyBitmap,
  enableDirtyBitmap,
  findDirtyBitmap,
  lookupDirtyBitmap,
  mergeDirtyBitmaps,
  removeDirtyBitmap,
  truncateNode,
} from '../../src/graph/index.js'
import { ReqFlags } from '../../src/io/index.js'
import { failure, memoryLayer, pattern } from './fixtures.js'

const KiB = 1024
const MiB = 1024 * KiB

async function disk(size = MiB, options: Record<string, number | string> = {}, faults = {}) {
  const made = memoryLayer(faults)
  const driver = made.layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(made.layer, driver, '/d', { size, ...options })
  const node = await made.layer.open('/d', { driver: 'qcow2', discard: 'unmap' }, { write: true })
  return { ...made, node }
}

/** Dirty runs as `[offset, bytes]`. */
function areas(bitmap: DirtyBitmap): [number, number][] {
  const found: [number, number][] = []
  for (let area = bitmap.nextDirtyArea(0); area !== undefined; ) {
    found.push([area.offset, area.bytes])
    area = bitmap.nextDirtyArea(area.offset + area.bytes)
  }
  return found
}

async function write(node: BlockNode, offset: number, bytes: number): Promise<void> {
  await node.write(offset, bytes, pattern(bytes, 1), 0, 0)
}

test('row 104: a successor freezes, else it is disabled or active; what is frozen is left alone', async () => {
  const { node } = await disk()
  const bitmap = await addDirtyBitmap(node, { name: 'b' })
  expect([bitmap.status, bitmap.enabled, bitmap.recording]).toEqual(['active', true, true])
  bitmap.disable()
  expect([bitmap.status, bitmap.enabled, bitmap.recording]).toEqual(['disabled', false, false])
  bitmap.createSuccessor()
  // Frozen beats disabled.
  expect([bitmap.status, bitmap.enabled, bitmap.busy]).toEqual(['frozen', false, true])
  for (const wrong of [
    () => bitmap.rename('c'),
    () => bitmap.release(),
    () => bitmap.makeAnonymous(),
    () => bitmap.clear(),
    () => bitmap.set(0, 512),
    () => bitmap.reset(0, 65536),
    () => bitmap.enable(),
    () => bitmap.disable(),
    () => node.dirtyBitmaps.resized(512),
  ]) {
    expect(wrong).toThrow(/^dirty bitmap: /)
  }
  bitmap.reclaim()
  expect(bitmap.status).toBe('disabled')
  bitmap.setBusy(true)
  expect(bitmap.status).toBe('locked')
  expect((await failure(() => clearDirtyBitmap(bitmap))).message).toBe(
    "Bitmap 'b' is currently in use by another operation and cannot be used",
  )
  expect(() => bitmap.release()).toThrow('a busy bitmap cannot be released')
  bitmap.setBusy(false)
  bitmap.enable()
  bitmap.setReadonly(true)
  expect((await failure(() => clearDirtyBitmap(bitmap))).message).toBe(
    "Bitmap 'b' is readonly and cannot be modified",
  )
  // On and off are not contents.
  disableDirtyBitmap(bitmap)
  enableDirtyBitmap(bitmap)
  expect(() => bitmap.set(0, 1)).toThrow('a readonly bitmap cannot be set')
  bitmap.setReadonly(false)
  expect(() => bitmap.setInconsistent()).toThrow('only a persistent bitmap')
  bitmap.persistent = true
  bitmap.setInconsistent()
  expect([bitmap.status, bitmap.enabled]).toEqual(['inconsistent', false])
  await expect((async () => enableDirtyBitmap(bitmap))()).rejects.toMatchObject({
    message: "Bitmap 'b' is inconsistent and cannot be used",
    hint: 'Try block-dirty-bitmap-remove to delete this bitmap from disk',
  })
  bitmap.skipStore = true
  expect(bitmap.isStored).toBe(false)
  await removeDirtyBitmap(bitmap)
  expect(node.dirtyBitmaps.isEmpty).toBe(true)
})

describe('row 105', () => {
  test('row 105: names are unique on a node, granularities powers of two from 512 on', async () => {
    const { node, layer } = await disk()
    const bitmap = node.dirtyBitmaps.create({ granularity: 512, name: 'b' })
    expect(node.dirtyBitmaps.find('b')).toBe(bitmap)
    expect(node.dirtyBitmaps.find('c')).toBeUndefined()
    expect((await failure(() => node.dirtyBitmaps.create({ granularity: 512, name: 'b' }))).message).toBe(
      'Bitmap already exists: b',
    )
    expect(() => node.dirtyBitmaps.create({ granularity: 256 })).toThrow('256 is no granularity')
    expect(() => node.dirtyBitmaps.create({ granularity: 1000 })).toThrow('1000 is no granularity')
    // Bytes are counted, not characters.
    const long = 'ä'.repeat(511)
    expect(node.dirtyBitmaps.create({ granularity: 512, name: `${long}x` }).name).toBe(`${long}x`)
    expect(
      (await failure(() => node.dirtyBitmaps.create({ granularity: 512, name: `${long}xy` }))).message,
    ).toBe(`Bitmap name too long: ${long}xy`)
    const named = async (options: Parameters<typeof addDirtyBitmap>[1]) =>
      (await failure(() => addDirtyBitmap(node, options))).message
    expect(await named({ name: '' })).toBe('Bitmap name cannot be empty')
    for (const granularity of [0, 256, 513]) {
      expect(await named({ name: 'x', granularity })).toBe('Granularity must be power of 2 and at least 512')
    }
    expect((await failure(() => lookupDirtyBitmap(layer, 'nobody', 'b'))).message).toBe(
      "Node 'nobody' not found",
    )
    expect(lookupDirtyBitmap(layer, node.name, 'b')).toBe(bitmap)
    expect((await failure(() => findDirtyBitmap(node, 'x'))).message).toBe("Dirty bitmap 'x' not found")
    await layer.unref(node)
    expect((await failure(() => node.dirtyBitmaps.create({ granularity: 512 }))).message).toBe(
      'could not get length of device: No medium found',
    )
  })

  test('row 105: many may be anonymous; a name given up is free; the newest comes first', async () => {
    const { node } = await disk()
    const first = node.dirtyBitmaps.create({ granularity: 512 })
    const second = node.dirtyBitmaps.create({ granularity: 512 })
    const third = node.dirtyBitmaps.create({ granularity: 512, name: 'b' })
    expect([...node.dirtyBitmaps]).toEqual([third, second, first])
    third.makeAnonymous()
    expect(node.dirtyBitmaps.hasNamed).toBe(false)
    second.rename('b')
    expect((await failure(() => first.rename('b'))).code).toBe('EEXIST')
    expect(node.dirtyBitmaps.find('b')).toBe(second)
    second.rename('b')
    expect(first.size).toBe(MiB)
  })
})

describe('row 106', () => {
  test('row 106: writes go to the successor, which takes the name or is joined again', async () => {
    const { node } = await disk()
    const bitmap = await addDirtyBitmap(node, { name: 'b', granularity: 4096 })
    await write(node, 0, 512)
    const child = bitmap.createSuccessor()
    expect([child.name, child.granularity, child.enabled]).toEqual([undefined, 4096, true])
    expect((await failure(() => bitmap.createSuccessor())).message).toBe(
      "Bitmap 'b' is currently in use by another operation and cannot be used",
    )
    bitmap.setBusy(false)
    expect((await failure(() => bitmap.createSuccessor())).message).toBe(
      'Cannot create a successor for a bitmap that already has one',
    )
    bitmap.setBusy(true)
    await write(node, 8192, 512)
    expect([areas(bitmap), areas(child)]).toEqual([[[0, 4096]], [[8192, 4096]]])
    bitmap.reclaim()
    expect(areas(bitmap)).toEqual([
      [0, 4096],
      [8192, 4096],
    ])
    expect([bitmap.enabled, bitmap.busy, child.released]).toEqual([true, false, true])
    bitmap.persistent = true
    const next = bitmap.createSuccessor()
    await write(node, 65536, 512)
    expect(bitmap.abdicate()).toBe(next)
    expect([next.name, next.persistent, next.enabled, bitmap.released]).toEqual(['b', true, true, true])
    expect(areas(next)).toEqual([[65536, 4096]])
    expect([...node.dirtyBitmaps]).toEqual([next])
  })

  test('row 106: a disabled bitmap has a disabled successor; without one there is nothing to end', async () => {
    const { node } = await disk()
    const bitmap = await addDirtyBitmap(node, { name: 'b', disabled: true })
    expect((await failure(() => bitmap.abdicate())).message).toBe(
      "Cannot relinquish control if there's no successor present",
    )
    expect((await failure(() => bitmap.reclaim())).message).toBe(
      'Cannot reclaim a successor when none is present',
    )
    const child = bitmap.createSuccessor()
    expect(child.enabled).toBe(false)
    await write(node, 0, 512)
    expect(child.count).toBe(0)
    bitmap.enableSuccessor()
    expect(bitmap.recording).toBe(true)
    await write(node, 0, 512)
    bitmap.reclaim()
    expect([bitmap.count, bitmap.enabled]).toEqual([65536, true])
  })

  test('row 106: bitmaps of different sizes do not merge, those of different granularities do', async () => {
    const { node } = await disk()
    const other = await disk(2 * MiB)
    const target = await addDirtyBitmap(node, { name: 't', granularity: 65536 })
    const fine = await addDirtyBitmap(node, { name: 'fine', granularity: 512 })
    const wrong = await addDirtyBitmap(other.node, { name: 'wrong', granularity: 65536 })
    fine.set(70000, 1)
    expect((await failure(() => mergeDirtyBitmaps(target, [fine, wrong]))).message).toBe(
      `Bitmaps are of different sizes (destination size is ${MiB}, source size is ${2 * MiB}) and can't be merged`,
    )
    // One that cannot be merged keeps the others out.
    expect(target.count).toBe(0)
    const before = mergeDirtyBitmaps(target, [fine, target])
    expect(areas(target)).toEqual([[65536, 65536]])
    expect([...node.dirtyBitmaps].length).toBe(2)
    target.restore(before)
    expect(target.count).toBe(0)
  })
})

test('row 107: all bitmaps follow the length, new bits are clean; releasing twice does nothing', async () => {
  const { node } = await disk()
  const bitmap = await addDirtyBitmap(node, { name: 'b', granularity: 65536 })
  const other = node.dirtyBitmaps.create({ granularity: 512 })
  await write(node, MiB - 512, 512)
  const how = { exact: true, preallocation: 'off', zero: false } as const
  await truncateNode(node, 3 * MiB, how)
  expect([bitmap.size, other.size]).toEqual([3 * MiB, 3 * MiB])
  expect(areas(bitmap)).toEqual([[MiB - 65536, 65536]])
  await write(node, 2 * MiB, 512)
  await truncateNode(node, MiB - 65536, how)
  expect([bitmap.size, bitmap.count, other.count]).toEqual([MiB - 65536, 0, 0])
  await truncateNode(node, MiB, how)
  expect(bitmap.count).toBe(0)
  bitmap.release()
  bitmap.release()
  expect([...node.dirtyBitmaps]).toEqual([other])
  bitmap.setReadonly(true)
  await write(node, 0, 512)
  expect(other.count).toBe(512)
  other.setReadonly(true)
  expect((await failure(() => truncateNode(node, 2 * MiB, how))).code).toBe('EPERM')
  expect(node.length).toBe(MiB)
})

test('row 107: releasing one that does not exist any more leaves the others', async () => {
  const { node } = await disk()
  const first = node.dirtyBitmaps.create({ granularity: 512, name: 'a' })
  const second = node.dirtyBitmaps.create({ granularity: 512, name: 'b' })
  const open = first.iterate()
  expect(() => first.release()).toThrow('it is being iterated over')
  open.close()
  first.release()
  first.release()
  expect([...node.dirtyBitmaps]).toEqual([second])
})

test('row 108: a query shows every bitmap, the newest first, counted in bytes', async () => {
  const { node } = await disk()
  await addDirtyBitmap(node, { name: 'b', persistent: true })
  node.dirtyBitmaps.create({ granularity: 512 })
  const frozen = await addDirtyBitmap(node, { name: 'off', disabled: true, granularity: 4096 })
  await write(node, 100, 600)
  frozen.createSuccessor()
  const off = { recording: false, persistent: false, busy: false, count: 0, granularity: 4096 }
  expect(node.dirtyBitmaps.query()).toEqual([
    off,
    { ...off, name: 'off', busy: true },
    { recording: true, persistent: false, busy: false, count: 1024, granularity: 512 },
    { name: 'b', recording: true, persistent: true, busy: false, count: 65536, granularity: 65536 },
  ])
})

test('row 109: the default granularity is the cluster size within 4 KiB and 64 KiB', async () => {
  for (const [cluster, expected] of [
    [512, 4096],
    [8192, 8192],
    [65536, 65536],
    [2 * MiB, 65536],
  ] as const) {
    const { node } = await disk(MiB, { cluster_size: cluster })
    expect(defaultBitmapGranularity(node)).toBe(expected)
    expect((await addDirtyBitmap(node, { name: 'b' })).granularity).toBe(expected)
  }
  const { layer, host } = memoryLayer()
  host.put('/raw', new Uint8Array(4096))
  const raw = await layer.open('/raw', { driver: 'raw' }, { write: true })
  expect(defaultBitmapGranularity(raw)).toBe(65536)
  expect((await failure(() => addDirtyBitmap(raw, { name: 'b', persistent: true }))).message).toBe(
    `Can't store persistent bitmaps to ${raw.name}: Operation not supported`,
  )
})

describe('row 110', () => {
  test('row 110: get, set, reset, clear, count and searching by bytes', async () => {
    const { node } = await disk()
    const bitmap = await addDirtyBitmap(node, { name: 'b', granularity: 4096 })
    bitmap.set(5000, 5000)
    expect([bitmap.get(4095), bitmap.get(4096), bitmap.get(12287), bitmap.get(12288)]).toEqual([
      false,
      true,
      true,
      false,
    ])
    expect(bitmap.count).toBe(8192)
    expect([bitmap.nextDirty(0), bitmap.nextDirty(6000), bitmap.nextDirty(0, 4096)]).toEqual([4096, 6000, -1])
    expect([bitmap.nextZero(0), bitmap.nextZero(4096), bitmap.nextZero(4096, 8192)]).toEqual([0, 12288, -1])
    expect(bitmap.nextDirtyArea(0, MiB, 5000)).toEqual({ offset: 4096, bytes: 5000 })
    bitmap.reset(4096, 4096)
    expect(areas(bitmap)).toEqual([[8192, 4096]])
    expect(() => bitmap.reset(0, 512)).toThrow('does not consist of whole bits')
    const before = clearDirtyBitmap(bitmap)
    expect(bitmap.count).toBe(0)
    bitmap.restore(before)
    expect(bitmap.count).toBe(4096)
  })

  test('row 110: an iterator can be set to any place', async () => {
    const { node } = await disk()
    const bitmap = await addDirtyBitmap(node, { name: 'b', granularity: 512 })
    for (const at of [0, 4096, 600 * KiB]) {
      bitmap.set(at, 512)
    }
    const walk = bitmap.iterate()
    expect([walk.next(), walk.next(), walk.next(), walk.next()]).toEqual([0, 4096, 600 * KiB, -1])
    walk.seek(4000)
    expect(walk.next()).toBe(4096)
    bitmap.clear()
    expect(walk.next()).toBe(-1)
    walk.close()
    bitmap.release()
  })

  test('row 110: writes, zeroes and discards mark the enabled bitmaps, reads and copy-on-read do not', async () => {
    const { node, layer, host } = await disk()
    const bitmap = await addDirtyBitmap(node, { name: 'b', granularity: 512 })
    const off = await addDirtyBitmap(node, { name: 'off', granularity: 512, disabled: true })
    await write(node, 1000, 30)
    await node.writeZeroes(65536, 1024, ReqFlags.mayUnmap)
    await node.discard(131072, 65536)
    await node.read(0, 4096, new Uint8Array(4096), 0, 0)
    await node.flush()
    expect(areas(bitmap)).toEqual([
      [512, 1024],
      [65536, 1024],
      [131072, 65536],
    ])
    expect(off.count).toBe(0)
    await layer.unref(node)
    host.put('/base', pattern(MiB, 3))
    const driver = layer.findFormat('qcow2')
    if (driver === undefined) {
      throw new Error('no qcow2')
    }
    await createWithDriver(layer, driver, '/top', { size: MiB, backing_file: '/base', backing_fmt: 'raw' })
    const top = await layer.open('/top', { driver: 'qcow2' }, { write: true, copyOnRead: true })
    const seen = await addDirtyBitmap(top, { name: 'b' })
    await top.read(0, 4096, new Uint8Array(4096), 0, 0)
    expect(seen.count).toBe(0)
    await write(top, 0, 512)
    expect(seen.count).toBe(65536)
  })

  test('row 110: a write that fails may have changed something, so it marks too', async () => {
    let broken = false
    const { node } = await disk(
      MiB,
      {},
      { fault: ({ kind }: { kind: string }) => (broken && kind !== 'read' ? 'EIO' : undefined) },
    )
    const bitmap = await addDirtyBitmap(node, { name: 'b' })
    broken = true
    for (const request of [
      () => write(node, 0, 512),
      async () => await node.writeZeroes(131072, 512, 0),
      async () => await node.write(262144, 65536, pattern(65536, 1), 0, ReqFlags.writeCompressed),
    ]) {
      expect((await failure(request)).code).toBe('EIO')
    }
    expect(areas(bitmap)).toEqual([
      [0, 65536],
      [131072, 65536],
      [262144, 65536],
    ])
  })

  test('row 110: a readonly bitmap keeps everybody from writing', async () => {
    const { node } = await disk()
    const bitmap = await addDirtyBitmap(node, { name: 'b' })
    bitmap.setReadonly(true)
    expect(node.dirtyBitmaps.hasReadonly).toBe(true)
    for (const request of [
      () => write(node, 0, 512),
      async () => await node.writeZeroes(0, 512, 0),
      async () => await node.discard(0, 65536),
    ]) {
      expect((await failure(request)).code).toBe('EPERM')
    }
    bitmap.setReadonly(false)
    await write(node, 0, 512)
    expect(bitmap.count).toBe(65536)
  })

  test('row 110: without bitmaps the write path knows of none', async () => {
    const { node } = await disk()
    expect(node.dirtyTracker).toBeUndefined()
    const bitmap = await addDirtyBitmap(node, { name: 'b' })
    expect(node.dirtyTracker).toBe(node.dirtyBitmaps)
    bitmap.release()
    expect(node.dirtyTracker).toBeUndefined()
  })
})
