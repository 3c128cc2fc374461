import { describe, expect, test } from 'vitest'
import { type ErrnoName, isBlockError } from '../../../errors/index.js'
import {
  addDirtyBitmap,
  type BlockNode,
  checkNode,
  clearDirtyBitmap,
  createBlockLayer,
  createWithDriver,
  type DirtyBitmap,
  removeDirtyBitmap,
  reopenSetReadOnly,
  truncateNode,
} from '../../../graph/index.js'
import { NodeCodecs } from '../../../platform/node/codecs.js'
import { MemoryHost, type MemoryHostOptions } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { qcow2 } from './index.js'

const KiB = 1024
const MiB = 1024 * KiB
const path = '/image'
const codecs = new NodeCodecs()

function layerOn(host: MemoryHost) {
  return createBlockLayer({ host, drivers: [qcow2, file] })
}

async function image(
  size = MiB,
  options: Record<string, number | string> = {},
  more: MemoryHostOptions = {},
) {
  const host = new MemoryHost({ codecs, ...more })
  const layer = layerOn(host)
  await createWithDriver(layer, qcow2, path, { size, ...options })
  const open = async (write = true, noIo = false) =>
    await layer.open(path, { driver: 'qcow2', 'node-name': 'n' }, { write, noIo })
  return { host, layer, open }
}

async function failure(run: () => unknown): Promise<{ code: string; message: string }> {
  try {
    await run()
  } catch (error) {
    if (isBlockError(error)) {
      return { code: error.code, message: error.message }
    }
    throw error
  }
  throw new Error('expected a failure')
}

/** Name and flags of what the image has stored. */
async function stored(node: BlockNode): Promise<unknown> {
  const info = await node.state?.specificInfo?.()
  return info?.data.bitmaps
}

function areas(bitmap: DirtyBitmap | undefined): [number, number][] {
  const found: [number, number][] = []
  for (let area = bitmap?.nextDirtyArea(0); area !== undefined; ) {
    found.push([area.offset, area.bytes])
    area = bitmap?.nextDirtyArea(area.offset + area.bytes)
  }
  return found
}

async function clean(node: BlockNode): Promise<void> {
  expect(await checkNode(node, { leaks: false, errors: false })).toMatchObject({
    corruptions: 0,
    leaks: 0,
    checkErrors: 0,
  })
}

const b = { name: 'b', granularity: 65536 }

describe('a stored bitmap', () => {
  test('comes back with bits, granularity and whether it records', async () => {
    const { layer, open } = await image(MiB, { cluster_size: 512 })
    let node = await open()
    const bitmap = await addDirtyBitmap(node, { name: 'b', granularity: 512, persistent: true })
    await addDirtyBitmap(node, { name: 'gone', granularity: 512 })
    await addDirtyBitmap(node, { name: 'off', persistent: true, disabled: true })
    bitmap.set(0, MiB)
    bitmap.reset(300 * KiB, 512)
    await layer.unref(node)
    node = await open(false)
    expect(
      node.dirtyBitmaps.query().map(({ name, recording, granularity }) => [name, recording, granularity]),
    ).toEqual([
      ['b', true, 512],
      ['off', false, 4096],
    ])
    expect(areas(node.dirtyBitmaps.find('b'))).toEqual([
      [0, 300 * KiB],
      [300 * KiB + 512, MiB - 300 * KiB - 512],
    ])
    expect(node.dirtyBitmaps.find('b')?.readonly).toBe(true)
    expect(await stored(node)).toEqual([
      { flags: [], name: 'off', granularity: 4096 },
      { flags: ['auto'], name: 'b', granularity: 512 },
    ])
    await clean(node)
    await layer.unref(node)
  })

  test('is in use while the image can be written, and gives its clusters back', async () => {
    const { layer, open, host } = await image()
    let node = await open()
    await addDirtyBitmap(node, { ...b, persistent: true })
    expect(await stored(node)).toBeUndefined()
    await layer.unref(node)
    const size = host.contents(path)?.size
    for (let round = 0; round < 5; round++) {
      node = await open()
      expect(await stored(node)).toEqual([{ flags: ['in-use', 'auto'], ...b }])
      const bitmap = node.dirtyBitmaps.find('b')
      bitmap?.set(round * 65536, 1)
      await layer.unref(node)
    }
    expect(host.contents(path)?.size).toBeLessThanOrEqual((size ?? 0) + 4 * 65536)
    node = await open()
    const bitmap = node.dirtyBitmaps.find('b')
    expect(bitmap?.count).toBe(5 * 65536)
    if (bitmap !== undefined) {
      await removeDirtyBitmap(bitmap)
    }
    expect(await stored(node)).toBeUndefined()
    await layer.unref(node)
    node = await open(false)
    expect(node.dirtyBitmaps.isEmpty).toBe(true)
    await clean(node)
    await layer.unref(node)
    expect(host.warnings).toEqual([])
  })

  test('that was not stored is inconsistent and can only be removed', async () => {
    const { layer, open, host } = await image()
    let node = await open()
    await addDirtyBitmap(node, { ...b, persistent: true })
    await layer.unref(node)
    node = await open()
    await node.flush()
    const left = host.contents(path)?.bytes() ?? new Uint8Array(0)
    await layer.unref(node)
    const other = new MemoryHost({ codecs })
    other.put(path, left)
    const again = layerOn(other)
    node = await again.open(path, { driver: 'qcow2' }, { write: true })
    const bitmap = node.dirtyBitmaps.find('b')
    expect([bitmap?.status, bitmap?.readonly]).toEqual(['inconsistent', false])
    const how = { exact: true, preallocation: 'off', zero: false } as const
    expect(await failure(() => truncateNode(node, 2 * MiB, how))).toMatchObject({
      message: "Bitmap 'b' is inconsistent and cannot be used",
    })
    await again.unref(node)
    node = await again.open(path, { driver: 'qcow2' }, { write: true })
    // Closing does not make it better.
    expect(node.dirtyBitmaps.find('b')?.inconsistent).toBe(true)
    await removeDirtyBitmap(node.dirtyBitmaps.find('b') as DirtyBitmap)
    await truncateNode(node, 2 * MiB, how)
    await clean(node)
    await again.unref(node)
    expect(other.warnings).toEqual([])
  })

  test('is left alone when it lives on elsewhere', async () => {
    const { layer, open } = await image()
    let node = await open()
    const bitmap = await addDirtyBitmap(node, { ...b, persistent: true })
    bitmap.skipStore = true
    await layer.unref(node)
    node = await open()
    expect(node.dirtyBitmaps.isEmpty).toBe(true)
    await layer.unref(node)
  })

  test('that does not fit any more is lost with a word', async () => {
    const { layer, open, host } = await image(0)
    const node = await open()
    await addDirtyBitmap(node, { ...b, persistent: true })
    await layer.unref(node)
    expect(host.warnings).toEqual([
      "error: Lost persistent bitmaps during inactivation of node 'n': No memory",
    ])
  })
})

test('what an image cannot hold is refused', async () => {
  const add = async (node: BlockNode, name: string, granularity: number) =>
    (await failure(() => addDirtyBitmap(node, { name, granularity, persistent: true }))).message
  const { open } = await image(16 * 2 ** 40, { cluster_size: 2 * MiB })
  const node = await open()
  const prefix = "Can't make bitmap 'b' persistent in 'n': "
  expect(await add(node, 'b', 512)).toBe(
    `${prefix}Too much space will be occupied by the bitmap. Use larger granularity`,
  )
  expect(await add(node, 'b', 2 ** 32)).toBe(`${prefix}Granularity exceeds maximum (2147483648 bytes)`)
  const long = 'x'.repeat(1024)
  expect(await add(node, long, 65536)).toBe(
    `Can't make bitmap '${long}' persistent in 'n': Name length exceeds maximum (1023 characters)`,
  )
  await addDirtyBitmap(node, { name: 'y'.repeat(1023), granularity: 2 ** 31, persistent: true })
  for (let i = 1; i < 65535; i++) {
    node.dirtyBitmaps.create({ granularity: 2 ** 31, name: String(i) }).persistent = true
  }
  expect(await add(node, 'b', 65536)).toBe(`${prefix}Maximum number of persistent bitmaps is already reached`)
  const old = await image(MiB, { compat: '0.10' })
  expect(await add(await old.open(), 'b', 65536)).toBe(
    `${prefix}Cannot store dirty bitmaps in qcow2 v2 files`,
  )
})

describe('reopen', () => {
  test('read-only stores the bitmaps, read-write takes them into use again', async () => {
    const { layer, open, host } = await image()
    const node = await open()
    const bitmap = await addDirtyBitmap(node, { ...b, persistent: true })
    const volatile = await addDirtyBitmap(node, { name: 'v' })
    await node.write(0, 512, new Uint8Array(512).fill(1), 0, 0)
    await reopenSetReadOnly(node, true)
    expect([bitmap.readonly, bitmap.released, volatile.readonly]).toEqual([true, false, false])
    expect(await stored(node)).toEqual([{ flags: ['auto'], ...b }])
    const copy = new MemoryHost({ codecs })
    copy.put(path, host.contents(path)?.bytes() ?? new Uint8Array(0))
    const seen = await layerOn(copy).open(path, { driver: 'qcow2' })
    expect(areas(seen.dirtyBitmaps.find('b'))).toEqual([[0, 65536]])
    await clean(seen)
    await reopenSetReadOnly(node, false)
    expect([bitmap.readonly, bitmap.count]).toEqual([false, 65536])
    expect(await stored(node)).toEqual([{ flags: ['in-use', 'auto'], ...b }])
    await node.write(65536, 512, new Uint8Array(512).fill(1), 0, 0)
    expect(bitmap.count).toBe(131072)
    await layer.unref(node)
    const end = await open(false)
    expect(areas(end.dirtyBitmaps.find('b'))).toEqual([[0, 131072]])
    await clean(end)
    expect(host.warnings).toEqual([])
  })

  test('bits that nobody needed so far are read before the bitmap is written to', async () => {
    const { layer, open } = await image()
    let node = await open()
    const made = await addDirtyBitmap(node, { ...b, persistent: true })
    made.set(0, 3 * 65536)
    await layer.unref(node)
    node = await open(false, true)
    expect(node.dirtyBitmaps.find('b')?.granularity).toBe(65536)
    await reopenSetReadOnly(node, false)
    await layer.unref(node)
    node = await open(false)
    expect(node.dirtyBitmaps.find('b')?.count).toBe(3 * 65536)
    await layer.unref(node)
  })

  test('that fails leaves bitmaps in use and an image that can be written, or else one that cannot', async () => {
    let goesOn = 0
    for (let failAt = 0; ; failAt++) {
      let armed = false
      let operations = 0
      const { open, layer } = await image(
        MiB,
        {},
        { fault: ({ kind }) => (armed && kind === 'write' && operations++ === failAt ? 'EIO' : undefined) },
      )
      let node = await open()
      await addDirtyBitmap(node, { ...b, persistent: true })
      await layer.unref(node)
      node = await open()
      await node.write(0, 512, new Uint8Array(512).fill(1), 0, 0)
      armed = true
      try {
        await reopenSetReadOnly(node, true)
        expect(operations).toBe(failAt)
        break
      } catch (error) {
        expect(isBlockError(error) && error.code).toBe('EIO')
      }
      armed = false
      expect(node.readOnly).toBe(false)
      await node.write(65536, 512, new Uint8Array(512).fill(1), 0, 0)
      expect(await stored(node)).toEqual([{ flags: ['in-use', 'auto'], ...b }])
      goesOn++
      await layer.unref(node)
      node = await open(false)
      expect(areas(node.dirtyBitmaps.find('b'))).toEqual([[0, 131072]])
      await clean(node)
      await layer.unref(node)
    }
    expect(goesOn).toBeGreaterThan(3)
  })
})

/** Sessions of writing, bitmaps and reopening; every operation on the file may be the one that fails. */
async function script(seed: number, failAt: number, code: ErrnoName) {
  let state = seed
  const random = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  let operations = 0
  let armed = false
  const host = new MemoryHost({
    codecs,
    fault: ({ kind }) => (armed && kind !== 'read' && operations++ === failAt ? code : undefined),
  })
  const layer = layerOn(host)
  await createWithDriver(layer, qcow2, path, { size: 64 * KiB, cluster_size: 512 })
  armed = true
  let baseline = new Uint8Array(64 * KiB)
  let tracked = false
  const attempt = async (run: () => unknown): Promise<void> => {
    try {
      await run()
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
    }
  }
  for (let session = 0; session < 2; session++) {
    let node: BlockNode | undefined
    await attempt(async () => {
      node = await layer.open(path, { driver: 'qcow2' }, { write: true })
    })
    if (node === undefined) {
      continue
    }
    const at = node
    for (let step = 0; step < 7; step++) {
      const bitmap = at.dirtyBitmaps.find('b')
      await attempt(async () => {
        switch (random(5)) {
          case 0: {
            // What the bitmap is compared with later: only if it is clean now.
            const now = new Uint8Array(64 * KiB)
            await at.read(0, now.length, now, 0, 0)
            if (bitmap === undefined) {
              await addDirtyBitmap(at, { name: 'b', granularity: 512, persistent: true })
            } else {
              clearDirtyBitmap(bitmap)
            }
            baseline = now
            tracked = true
            break
          }
          case 1:
            await reopenSetReadOnly(at, true)
            await reopenSetReadOnly(at, false)
            break
          default: {
            const offset = random(120) * 512
            await at.write(offset, 1024, new Uint8Array(1024).fill(1 + random(200)), 0, 0)
          }
        }
      })
    }
    await attempt(() => layer.unref(at))
  }
  return { operations, tracked, baseline, contents: host.contents(path)?.bytes() ?? new Uint8Array(0) }
}

test('any one operation below may fail: what looks valid is', async () => {
  let valid = 0
  for (let seed = 1; seed <= 3; seed++) {
    const { operations } = await script(seed, -1, 'EIO')
    for (let failAt = 0; failAt < operations; failAt++) {
      const code = failAt % 2 === 0 ? 'EIO' : 'ENOSPC'
      const { tracked, baseline, contents } = await script(seed, failAt, code)
      const host = new MemoryHost({ codecs })
      host.put(path, contents)
      const node = await layerOn(host).open(path, { driver: 'qcow2' })
      const place = `seed ${seed}, operation ${failAt} of ${operations}`
      const check = await checkNode(node, { leaks: false, errors: false })
      expect(
        [check.corruptions, check.checkErrors, ...check.messages.filter((m) => m.startsWith('ERROR'))],
        place,
      ).toEqual([0, 0])
      const bitmap = node.dirtyBitmaps.find('b')
      if (bitmap === undefined || bitmap.inconsistent || !tracked) {
        continue
      }
      valid++
      const now = new Uint8Array(64 * KiB)
      await node.read(0, now.length, now, 0, 0)
      for (let at = 0; at < now.length; at += 512) {
        const same = now.subarray(at, at + 512).every((byte, i) => byte === baseline[at + i])
        expect(same || bitmap.get(at), `${place}: ${at} was written`).toBe(true)
      }
    }
  }
  expect(valid).toBeGreaterThan(20)
})
