import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import {
  addDirtyBitmap,
  type BlockLayer,
  type BlockNode,
  checkNode,
  createBlockLayer,
  createSnapshot,
  createWithDriver,
} from '../../src/graph/index.js'
import { compactImage } from '../../src/image/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { MemoryHost } from '../../src/testing/index.js'
import { FolderHost, type FolderState } from './folder-log.js'

/**
 * Power cuts while an image is made compact, and while a guest writes to it afterwards: every state of the names
 * and the files that may be left. The image is there and sound, by our check and QEMU's; it reads as before, and
 * so does an overlay on it; bitmaps are what they were; what was flushed after `compact` stays. `CRASH_ALL=1`
 * takes more orders of the guest's writes.
 */
const exhaustive = process.env.CRASH_ALL === '1' ? 13 : 5
const codecs = createNodeHost().codecs
const size = 1 << 20
const block = 4096
let folder = ''

beforeAll(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'blockgraph-compact-'))
})

afterAll(() => fs.rmSync(folder, { recursive: true }))

interface Workload {
  readonly options?: Readonly<Record<string, string | number | boolean>>
  /** The image lies on `/base`. */
  readonly backed?: boolean
  /** `/top` lies on the image. */
  readonly overlay?: boolean
  readonly bitmaps?: boolean
  readonly compress?: boolean
  /** The compact image gets a name of its own. */
  readonly beside?: boolean
  /** What it says if it must leave the image alone. */
  readonly refused?: string
  readonly snapshot?: boolean
  /** There is nothing to gain. */
  readonly compactAlready?: boolean
}

const workloads: Readonly<Record<string, Workload>> = {
  'in place': {},
  'in place, version 2': { options: { compat: '0.10' } },
  'in place, small clusters': { options: { cluster_size: 512, refcount_bits: 8 } },
  'in place, extended L2 entries': { options: { cluster_size: 16384, extended_l2: true } },
  'in place, lazy refcounts': { options: { lazy_refcounts: true } },
  'in place, compressed': { compress: true },
  'in place, bitmaps': { bitmaps: true },
  'in place, over a backing file': { backed: true },
  'in place, between a backing file and an overlay, bitmaps': { backed: true, overlay: true, bitmaps: true },
  beside: { beside: true },
  'beside, over a backing file, compressed, bitmaps': {
    beside: true,
    backed: true,
    compress: true,
    bitmaps: true,
  },
  'refused for a snapshot': { snapshot: true, refused: '1 internal snapshot' },
  'nothing to gain': { compactAlready: true },
}

function fillOf(value: number, blocks: number): Uint8Array {
  return new Uint8Array(blocks * block).fill(value)
}

/** What must be seen through the image from an event on: one or the other, sector by sector. */
interface Expected {
  readonly from: number
  readonly either: Uint8Array
  readonly or: Uint8Array
}

interface Recorded {
  readonly host: FolderHost
  readonly expected: readonly Expected[]
  /** Through the overlay, as long as the guest has not written to the image. */
  readonly top: Uint8Array | undefined
  readonly bitmaps: string
  /** Events when `compact` returned. */
  readonly done: number
}

async function readAll(node: BlockNode): Promise<Uint8Array> {
  const bytes = new Uint8Array(node.length)
  await node.read(0, bytes.length, bytes, 0, 0)
  return bytes
}

function bitmapsOf(node: BlockNode): string {
  const found = [...node.dirtyBitmaps].map((bitmap) => {
    const areas: number[] = []
    for (
      let at = bitmap.nextDirty(0);
      at >= 0;
      at = areas.at(-1) === -1 ? -1 : bitmap.nextDirty(areas.at(-1) ?? 0)
    ) {
      areas.push(at, bitmap.nextZero(at))
    }
    const { name, granularity, enabled, inconsistent } = bitmap
    return { name, granularity, enabled, inconsistent, areas }
  })
  return JSON.stringify(found.sort((a, b) => String(a.name).localeCompare(String(b.name))))
}

async function make(layer: BlockLayer, name: string, options: Record<string, unknown>): Promise<void> {
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, driver, name, { size, ...options } as Workload['options'] & object)
}

async function withNode<T>(
  layer: BlockLayer,
  name: string,
  write: boolean,
  use: (node: BlockNode) => Promise<T>,
): Promise<T> {
  const options = { driver: 'qcow2', discard: 'unmap' }
  const node = await layer.open(name, options, write ? { write: true } : {})
  try {
    return await use(node)
  } finally {
    await layer.unref(node)
  }
}

/** An image with much that it does not need any more, and its surroundings. */
async function prepare(host: MemoryHost, layer: BlockLayer, workload: Workload): Promise<void> {
  const backing = workload.backed === true ? { backing_file: 'base', backing_fmt: 'raw' } : {}
  if (workload.backed === true) {
    host.put('/base', fillOf(0xb0, size / block))
  }
  await make(layer, '/image', { cluster_size: block, ...workload.options, ...backing })
  await withNode(layer, '/image', true, async (node) => {
    if (workload.bitmaps === true) {
      await addDirtyBitmap(node, { name: 'early', granularity: 65536, persistent: true })
    }
    const write = async (first: number, blocks: number, value: number) => {
      await node.write(first * block, blocks * block, fillOf(value, blocks), 0, 0)
    }
    await write(0, 3, 1)
    await write(100, 2, 2)
    if (workload.compactAlready !== true) {
      await write(16, 48, 3)
      await write(128, 64, 4)
      await node.writeZeroes(16 * block, 44 * block, 4)
      await node.writeZeroes(128 * block, 64 * block, 4)
    }
    if (workload.bitmaps === true) {
      await addDirtyBitmap(node, { name: 'late', granularity: 4096, persistent: true })
      await write(102, 1, 5)
    }
    if (workload.snapshot === true) {
      const snapshot = { id: '', name: 's', dateSeconds: 1, dateNanoseconds: 0, vmClockNanoseconds: 0n }
      await createSnapshot(node, { ...snapshot, vmStateSize: 0 })
    }
  })
  if (workload.overlay === true) {
    await make(layer, '/top', { cluster_size: block, backing_file: 'image', backing_fmt: 'qcow2' })
    await withNode(layer, '/top', true, async (node) => {
      await node.write(block, block, fillOf(9, 1), 0, 0)
    })
  }
}

async function record(workload: Workload): Promise<Recorded> {
  const host = new FolderHost({ codecs })
  const layer = createBlockLayer({ host, drivers: allDrivers })
  await prepare(host, layer, workload)
  const before = await withNode(layer, '/image', false, readAll)
  const bitmaps = await withNode(layer, '/image', false, async (node) => bitmapsOf(node))
  const top = workload.overlay === true ? await withNode(layer, '/top', false, readAll) : undefined
  host.record()
  const expected: Expected[] = [{ from: 0, either: before, or: before }]
  const work = compactImage(layer, {
    image: '/image',
    compress: workload.compress === true,
    ...(workload.beside === true ? { output: '/output' } : {}),
  })
  if (workload.refused === undefined) {
    expect((await work).compacted).toBe(workload.compactAlready !== true)
  } else {
    await expect(work).rejects.toThrow(workload.refused)
  }
  const done = host.length
  // The guest goes on.
  const after = before.slice()
  await withNode(layer, workload.beside === true ? '/output' : '/image', true, async (node) => {
    const either = after.slice()
    after.fill(7, block, 3 * block)
    after.fill(8, 200 * block, 201 * block)
    expected.push({ from: host.length, either, or: after.slice() })
    await node.write(block, 2 * block, fillOf(7, 2), 0, 0)
    await node.write(200 * block, block, fillOf(8, 1), 0, 0)
    await node.flush()
    expected.push({ from: host.length, either: after, or: after })
  })
  return { host, expected, top, bitmaps, done }
}

/** Whether each sector is one of two. */
function isEither(bytes: Uint8Array, { either, or }: Expected): boolean {
  for (let at = 0; at < bytes.length; at += 512) {
    const sector = Buffer.from(bytes.buffer, bytes.byteOffset + at, 512)
    if (!sector.equals(either.subarray(at, at + 512)) && !sector.equals(or.subarray(at, at + 512))) {
      return false
    }
  }
  return bytes.length === either.length
}

/** What is wrong with the image called `name`, as we see it. */
async function inspect(
  layer: BlockLayer,
  name: string,
  expected: Expected,
  bitmaps: string | undefined,
): Promise<string | undefined> {
  return await withNode(layer, name, false, async (node) => {
    const check = await checkNode(node, { leaks: false, errors: false })
    if (check.corruptions !== 0 || check.checkErrors !== 0) {
      return `our check of ${name}: ${check.messages.join('; ')}`
    }
    if (!isEither(await readAll(node), expected)) {
      return `${name} reads otherwise`
    }
    return bitmaps === undefined || bitmapsOf(node) === bitmaps
      ? undefined
      : `bitmaps of ${name}: ${bitmapsOf(node)}`
  })
}

/** What QEMU says against an image. */
function judge(
  files: ReadonlyMap<string, Uint8Array>,
  name: string,
  { either, or }: Expected,
  repairs: boolean,
): string | undefined {
  for (const [file, bytes] of files) {
    fs.writeFileSync(path.join(folder, file), bytes)
  }
  const file = name.slice(1)
  const check = spawnSync('qemu-img', ['check', ...(repairs ? ['-r', 'all'] : []), '-f', 'qcow2', file], {
    cwd: folder,
    encoding: 'utf8',
  })
  if (check.status !== 0 && check.status !== 3) {
    return `qemu-img check ${file}, code ${check.status}: ${check.stderr}`
  }
  if (either !== or) {
    return undefined
  }
  fs.writeFileSync(path.join(folder, 'raw'), either)
  const args = ['compare', '-f', 'qcow2', '-F', 'raw', file, 'raw']
  const compare = spawnSync('qemu-img', args, { cwd: folder, encoding: 'utf8' })
  return compare.status === 0 ? undefined : `qemu-img compare ${file}: ${compare.stdout}${compare.stderr}`
}

async function wrongWith(
  state: FolderState,
  workload: Workload,
  recorded: Recorded,
): Promise<string | undefined> {
  const { files, issued } = state
  const { expected, top, bitmaps, done } = recorded
  const latest = expected.findLast(({ from }) => from <= issued) ?? expected[0]
  const original = expected[0]
  if (latest === undefined || original === undefined) {
    throw new Error('nothing is known')
  }
  const host = new MemoryHost({ codecs })
  for (const [name, bytes] of files) {
    host.put(name, bytes)
  }
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const isBeside = workload.beside === true
  const repairs = workload.options?.lazy_refcounts === true && issued > done
  if (repairs) {
    // Whoever opens it for writing does.
    await withNode(layer, '/image', true, async () => undefined)
  }
  const images: [string, Expected, string | undefined][] = [
    ['/image', isBeside ? original : latest, isBeside || issued <= done ? bitmaps : undefined],
  ]
  if (isBeside && (files.has('/output') || issued >= done)) {
    images.push(['/output', latest, issued <= done ? bitmaps : undefined])
  }
  if (top !== undefined && issued <= done) {
    images.push(['/top', { from: 0, either: top, or: top }, undefined])
  }
  for (const [name, known, kept] of images) {
    if (!files.has(name)) {
      return `${name} is gone`
    }
    const wrong = (await inspect(layer, name, known, kept)) ?? judge(files, name, known, repairs)
    if (wrong !== undefined) {
      return wrong
    }
  }
  return undefined
}

test.each(Object.entries(workloads))('%s', { timeout: 1_800_000 }, async (name, workload) => {
  const recorded = await record(workload)
  const visible = ['/base', '/image', '/output', '/top']
  const seen = new Set<string>()
  let states = 0
  for (const state of recorded.host.states(visible, exhaustive)) {
    states++
    const hash = createHash('sha1')
    for (const [file, bytes] of state.files) {
      hash.update(file).update(bytes)
    }
    // The same files at another time may have to show something newer.
    const time = recorded.expected.findLastIndex(({ from }) => from <= state.issued)
    const key = `${time} ${state.issued <= recorded.done} ${hash.digest('hex')}`
    if (!seen.has(key)) {
      seen.add(key)
      const wrong = await wrongWith(state, workload, recorded)
      expect(
        wrong,
        `event ${state.issued} of ${recorded.host.length}, compact ended at ${recorded.done}`,
      ).toBeUndefined()
    }
  }
  expect(states).toBeGreaterThan(10)
  if (process.env.CRASH_ALL === '1') {
    console.log(
      `${name}: ${recorded.host.length} events, ${states} states, ${seen.size} different, all judged by QEMU`,
    )
  }
})
