import { describe, expect, test } from 'vitest'
import { type BlockNode, createBlockLayer, createWithDriver, hasZeroInit } from '../../../graph/index.js'
import { BlockStatus, ReqFlags } from '../../../io/index.js'
import type { OptionTree } from '../../../options/index.js'
import { NodeCodecs } from '../../../platform/node/codecs.js'
import { MemoryHost } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { raw } from '../raw/index.js'
import type { Qcow2Image } from './image.js'
import { checkBytes } from './image-fixture.js'
import { qcow2 } from './index.js'

const cluster = 4096
const l1Offset = 3 * cluster

async function image(options: Record<string, string | number> = {}) {
  const host = new MemoryHost({ codecs: new NodeCodecs() })
  const layer = createBlockLayer({ host, drivers: [raw, qcow2, file] })
  await createWithDriver(layer, qcow2, '/image', { size: 1 << 20, cluster_size: cluster, ...options })
  const contents = host.contents('/image')
  if (contents === undefined) {
    throw new Error('no image')
  }
  const open = (more: OptionTree = {}, write = true) =>
    layer.open('/image', { driver: 'qcow2', ...more }, { write })
  /** Changes 8 bytes of the closed image. */
  const patch = (offset: number, value: bigint) => {
    const bytes = new Uint8Array(8)
    new DataView(bytes.buffer).setBigUint64(0, value)
    contents.write(offset, bytes)
  }
  const peek = (offset: number) => new DataView(contents.bytes().buffer).getBigUint64(offset)
  return { host, layer, contents, open, patch, peek }
}

function filled(bytes: number, value: number): Uint8Array {
  return new Uint8Array(bytes).fill(value)
}

describe('with metadata in memory', () => {
  test('reads, overwrites and allocating writes inside the file make no promise', async () => {
    const { open, layer, host } = await image()
    const node = await open()
    // Space to allocate from: the file is as long as it gets.
    await node.write(0, cluster * 8, filled(cluster * 8, 1), 0, 0)
    await node.writeZeroes(0, cluster * 4, ReqFlags.mayUnmap)
    await node.flush()
    const buffer = filled(cluster, 2)
    // The first read looks whether metadata was preallocated; the first reuse of freed clusters
    // makes sure that nothing on disk points there.
    await node.read(0, 512, buffer, 0, 0)
    await node.write(0, cluster, buffer, 0, 0)
    expect(node.write(cluster, cluster, buffer, 0, 0)).toBeUndefined()
    expect(node.write(cluster * 2, 512, buffer, 0, 0)).toBeUndefined()
    expect(node.write(cluster * 4, cluster, buffer, 0, 0)).toBeUndefined()
    const zeroing = node.writeZeroes(cluster * 6, cluster, 0)
    // Also while something else changes metadata.
    expect(node.write(cluster * 4, cluster, buffer, 0, 0)).toBeUndefined()
    await zeroing
    expect(node.read(cluster * 4, cluster, buffer, 0, 0)).toBeUndefined()
    expect(node.read(0, cluster * 8, filled(cluster * 8, 9), 0, 0)).toBeUndefined()
    await layer.unref(node)
    expect(host.warnings).toEqual([])
  })

  test('contiguous clusters are one extent', async () => {
    const { open, layer } = await image()
    const node = await open()
    await node.write(0, cluster * 8, filled(cluster * 8, 1), 0, 0)
    const status = new BlockStatus()
    await node.status(512, 1 << 20, 'zero', status)
    expect([status.bytes, status.data, status.zero]).toEqual([cluster * 8 - 512, true, false])
    await node.status(cluster * 8, 1 << 20, 'zero', status)
    expect([status.bytes, status.data, status.zero]).toEqual([(1 << 20) - cluster * 8, false, true])
    await layer.unref(node)
  })
})

describe('a write behind a part that stands', () => {
  test('goes right behind it in the file', async () => {
    const { open, layer, contents } = await image()
    const node = await open()
    await node.write(0, cluster, filled(cluster, 1), 0, 0)
    await node.write(cluster * 9, cluster, filled(cluster, 2), 0, 0)
    await node.discard(cluster * 9, cluster)
    await node.write(0, cluster * 3, filled(cluster * 3, 3), 0, 0)
    const status = new BlockStatus()
    await node.status(0, 1 << 20, 'zero', status)
    expect([status.bytes, status.offset]).toEqual([cluster, 5 * cluster])
    await layer.unref(node)
    expect(checkBytes(contents.bytes())).toEqual({ corrupt: [], leaked: [] })
  })
})

describe('corrupt metadata', () => {
  const suffix = '; further corruption events will be suppressed'

  async function damaged(
    place: 'l1' | 'l2' | 'reftable',
    value: (old: bigint) => bigint,
    options: Record<string, string | number> = {},
  ) {
    const made = await image(options)
    const node = await made.open()
    await node.write(0, cluster * 2, filled(cluster * 2, 1), 0, 0)
    await made.layer.unref(node)
    const l2 = Number(made.peek(l1Offset) & 0xffffffffffffffn)
    const at = { l1: l1Offset, l2, reftable: cluster }[place]
    made.patch(at, value(made.peek(at)))
    return { ...made, l2 }
  }

  async function fails(wait: () => unknown, code: string): Promise<void> {
    await expect((async () => await wait())()).rejects.toMatchObject({ code })
  }

  test('an unaligned L2 table takes a writable image out of service and marks it', async () => {
    const { open, layer, host, contents } = await damaged('l1', (old) => old + 512n)
    const node = await open()
    await fails(() => node.read(0, 512, new Uint8Array(512), 0, 0), 'EIO')
    expect(host.warnings).toEqual([
      `qcow2: Marking image as corrupt: L2 table offset 0x4200 unaligned (L1 index: 0)${suffix}`,
    ])
    await fails(() => node.read(0, 512, new Uint8Array(512), 0, 0), 'ENOMEDIUM')
    await fails(() => node.write(0, 512, new Uint8Array(512), 0, 0), 'ENOMEDIUM')
    await layer.unref(node).catch(() => undefined)
    expect((contents.bytes()[79] ?? 0) & 2).toBe(2)
    await expect(open()).rejects.toThrow('qcow2: Image is corrupt; cannot be opened read/write')
    await layer.unref(await open({}, false))
  })

  test('on a read-only image it is reported once, and the rest stays readable', async () => {
    const { open, layer, host, contents } = await damaged('l2', (old) => old + 512n)
    const before = contents.bytes()
    const node = await open({}, false)
    for (let i = 0; i < 2; i++) {
      await fails(() => node.read(0, 512, new Uint8Array(512), 0, 0), 'EIO')
    }
    expect(host.warnings).toEqual([
      'qcow2: Image is corrupt: Cluster allocation offset 0x5200 unaligned (L2 offset: 0x4000, L2 index: 0); ' +
        'further non-fatal corruption events will be suppressed',
    ])
    await node.read(cluster, 512, new Uint8Array(512), 0, 0)
    await layer.unref(node)
    expect(contents.bytes()).toEqual(before)
  })

  test('zero clusters are an error in version 2', async () => {
    const { open, layer, host } = await damaged('l2', () => 1n, { compat: '0.10' })
    const node = await open({}, false)
    await fails(() => node.read(0, 512, new Uint8Array(512), 0, 0), 'EIO')
    expect(host.warnings[0]).toContain(
      'Zero cluster entry found in pre-v3 image (L2 offset: 0x4000, L2 index: 0)',
    )
    await layer.unref(node)
  })

  test.each([
    ['qcow2_header', 0n],
    ['refcount table', BigInt(cluster)],
    ['refcount block', BigInt(2 * cluster)],
    ['active L1 table', BigInt(l1Offset)],
    ['active L2 table', 0x4000n],
  ])('data is not written over the %s', async (name, offset) => {
    const copied = 1n << 63n
    // Offset 0 counts as unallocated, so the header is reached by an unlucky refcount instead.
    const { open, layer, host, contents, patch } = await damaged('l2', (old) =>
      offset === 0n ? old : offset | copied,
    )
    if (offset === 0n) {
      patch(2 * cluster, 0x0000000100010001n)
    }
    const before = contents.bytes()
    const node = await open()
    const at = offset === 0n ? cluster * 7 : 0
    await fails(() => node.write(at, cluster, filled(cluster, 7), 0, 0), 'EIO')
    expect(host.warnings).toEqual([
      `qcow2: Marking image as corrupt: Preventing invalid write on metadata (overlaps with ${name})${suffix}`,
    ])
    await layer.unref(node).catch(() => undefined)
    const after = contents.bytes()
    after[79] = before[79] ?? 0
    expect(after).toEqual(before)
  })

  test('overlap-check=none lets it happen', async () => {
    const { open, layer, host } = await damaged('l2', () => (1n << 63n) | BigInt(cluster * 2))
    const node = await open({ 'overlap-check': 'none' })
    await node.write(0, 512, filled(512, 7), 0, 0)
    expect(host.warnings).toEqual([])
    await layer.unref(node)
  })

  test('an unaligned refcount block', async () => {
    const { open, layer, host } = await damaged('reftable', (old) => old + 512n)
    const node = await open()
    await fails(() => node.write(cluster * 5, 512, filled(512, 7), 0, 0), 'EIO')
    expect(host.warnings).toEqual([
      `qcow2: Marking image as corrupt: Refblock offset 0x2200 unaligned (reftable index: 0)${suffix}`,
    ])
    await layer.unref(node).catch(() => undefined)
  })

  test('a compressed cluster outside the file, and one that is no deflate stream', async () => {
    for (const offset of [1n << 40n, BigInt(cluster)]) {
      const { open, layer } = await damaged('l2', () => (1n << 62n) | offset)
      const node = await open({}, false)
      await fails(() => node.read(0, 512, new Uint8Array(512), 0, 0), 'EIO')
      await fails(() => node.read(0, cluster, new Uint8Array(cluster), 0, 0), 'EIO')
      await layer.unref(node)
    }
  })
})

describe('compressed clusters', () => {
  test('overwriting one frees its space, and what was decoded is forgotten', async () => {
    const { open, layer, contents } = await image()
    const node = await open()
    await node.write(0, cluster, filled(cluster, 1), 0, ReqFlags.writeCompressed)
    const part = new Uint8Array(512)
    await node.read(512, 512, part, 0, 0)
    expect(part).toEqual(filled(512, 1))
    expect(node.read(1024, 512, part, 0, 0)).toBeUndefined()
    await node.write(0, 512, filled(512, 2), 0, 0)
    await node.write(cluster, cluster, filled(cluster, 3), 0, ReqFlags.writeCompressed)
    const all = new Uint8Array(2 * cluster)
    await node.read(0, all.length, all, 0, 0)
    expect([all[0], all[511], all[512], all[cluster - 1], all[cluster]]).toEqual([2, 2, 1, 1, 3])
    await layer.unref(node)
    expect(checkBytes(contents.bytes())).toEqual({ corrupt: [], leaked: [] })
  })

  test('only unallocated whole clusters can be written', async () => {
    const { open, layer } = await image({ size: cluster * 3 + 512 })
    const node = await open()
    const write = async (offset: number, bytes: number): Promise<void> => {
      await node.write(offset, bytes, filled(bytes, 5), 0, ReqFlags.writeCompressed)
    }
    await expect(write(512, cluster)).rejects.toMatchObject({ code: 'EINVAL' })
    await expect(write(0, 512)).rejects.toMatchObject({ code: 'EINVAL' })
    await write(cluster * 3, 512)
    await write(0, cluster * 2)
    await expect(write(cluster, cluster)).rejects.toMatchObject({ code: 'EIO' })
    await layer.unref(node)
  })

  test('share host clusters up to what refcounts can count', async () => {
    const { open, layer, contents } = await image({ refcount_bits: 1 })
    const node = await open()
    await node.write(0, cluster * 8, filled(cluster * 8, 9), 0, ReqFlags.writeCompressed)
    const all = new Uint8Array(cluster * 8)
    await node.read(0, all.length, all, 0, 0)
    expect(all).toEqual(filled(cluster * 8, 9))
    await layer.unref(node)
    expect(checkBytes(contents.bytes())).toEqual({ corrupt: [], leaked: [] })
  })
})

describe('what the image says of itself', () => {
  const state = (node: BlockNode): Qcow2Image => node.state as Qcow2Image

  test('limits, info, zero init', async () => {
    const { open, layer } = await image()
    const node = await open()
    expect(node.limits).toMatchObject({ zeroAlignment: cluster, discardAlignment: cluster })
    expect(state(node).info()).toEqual({ clusterSize: cluster, vmStateOffset: 2 << 20, isDirty: false })
    expect(hasZeroInit(node)).toBe(true)
    await layer.unref(node)
  })

  test('another backing file, and names that do not fit', async () => {
    const { open, layer, host } = await image()
    host.put('/base', new Uint8Array(512))
    let node = await open()
    await state(node).changeBacking('base', 'raw')
    await expect(state(node).changeBacking('x'.repeat(1024), 'raw')).rejects.toMatchObject({ code: 'EINVAL' })
    expect(state(node).backingFile).toBe('base')
    await layer.unref(node)
    node = await open()
    expect([node.backing?.filename, node.backingFormat]).toEqual(['/base', 'raw'])
    await state(node).changeBacking(undefined, undefined)
    await layer.unref(node)
    node = await open()
    expect(node.backing).toBeUndefined()
    await layer.unref(node)
  })

  test('opened without I/O it reads tables when they are needed', async () => {
    const { open, layer, contents } = await image()
    let node = await open()
    await node.write(0, cluster, filled(cluster, 1), 0, 0)
    await layer.unref(node)
    expect(contents.size).toBeGreaterThan(cluster * 5)
    node = await layer.open('/image', { driver: 'qcow2' }, { noIo: true })
    const status = new BlockStatus()
    await node.status(0, 1 << 20, 'zero', status)
    expect([status.bytes, status.data, status.offset]).toEqual([cluster, true, 5 * cluster])
    await layer.unref(node)
  })

  test('options are checked', async () => {
    const { open } = await image()
    const cases: [OptionTree, string][] = [
      [
        { 'overlap-check': 'some' },
        "Unsupported value 'some' for qcow2 option 'overlap-check'. Allowed are any of the following: none, constant, cached, all",
      ],
      [
        { 'overlap-check': 'all', 'overlap-check.template': 'none' },
        "Conflicting values for qcow2 options 'overlap-check' ('all') and 'overlap-check.template' ('none')",
      ],
      [{ 'l2-cache-size': '2k', 'cache-size': '1k' }, 'l2-cache-size may not exceed cache-size'],
    ]
    for (const [options, message] of cases) {
      await expect(open(options)).rejects.toThrow(message)
    }
    const old = await image({ compat: '0.10' })
    await expect(old.open({ 'lazy-refcounts': 'on' })).rejects.toThrow(
      'Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level',
    )
  })
})
