import { expect, test } from 'vitest'
import { isBlockError } from '../../src/errors/index.js'
import { type BlockNode, truncateNode } from '../../src/graph/index.js'
import { BlockStatus } from '../../src/io/index.js'
import type { OptionTree } from '../../src/options/index.js'
import {
  type FormatUnderTest,
  filesOf,
  hostWith,
  imagePath,
  layerOn,
  makeImage,
  memoryHost,
  openOptions,
  sector,
  seeded,
} from './format-under-test.js'
import { Guest, readAll } from './guest.js'

const steps = 120
/** How far the raw window under a format is shifted in the file. Bytes. */
const shift = 65536

/** A random guest: several requests in flight, none overlapping another. */
async function exercise(
  node: BlockNode,
  guest: Guest,
  random: () => number,
  requests = steps,
): Promise<void> {
  const lanes = 4
  const lane = async (number: number) => {
    for (let i = 0; i < requests / lanes; i++) {
      const share = Math.floor(guest.sectors / lanes)
      const first = number * share + Math.floor(random() * share)
      const count = Math.min((number + 1) * share - first, 1 + Math.floor(random() * 24))
      const action = random()
      if (action < 0.55) {
        const data = guest.write(first, count)
        await node.write(first * sector, data.length, data, 0, 0)
      } else if (action < 0.75) {
        guest.zero(first, count)
        await node.writeZeroes(first * sector, count * sector, action < 0.65 ? 4 : 0)
      } else if (action < 0.95) {
        const data = new Uint8Array(count * sector)
        await node.read(first * sector, data.length, data, 0, 0)
        expect(sectorProblem(data, first, guest.current.slice(first, first + count))).toBeUndefined()
      } else {
        await node.flush()
      }
      await Promise.resolve()
    }
  }
  await Promise.all(Array.from({ length: lanes }, (_, number) => lane(number)))
}

function sectorProblem(data: Uint8Array, first: number, generations: readonly number[]): string | undefined {
  const view = new DataView(data.buffer)
  for (const [i, generation] of generations.entries()) {
    const owner = view.getUint32(i * sector)
    const shown = view.getUint32(i * sector + 4)
    if (shown !== generation || (generation !== 0 && owner !== first + i + 1)) {
      return `sector ${first + i} shows write ${shown} of sector ${owner - 1}, expected ${generation}`
    }
  }
  return undefined
}

/** Graphs in which a format must work just the same: what stands between it and its file. */
const graphs: readonly { name: string; file: OptionTree | undefined }[] = [
  { name: 'directly', file: undefined },
  { name: 'over throttle', file: { driver: 'throttle', 'throttle-group': 'limits' } },
  { name: 'over blkdebug', file: { driver: 'blkdebug' } },
  { name: 'over a raw window', file: { driver: 'raw', offset: shift } },
]

/** What is written is read back: at once, beside other requests, after a reopen, through whatever lies below. */
export function contentsTests(under: FormatUnderTest): void {
  for (const { name, file } of under.manyFiles ? graphs.slice(0, 1) : graphs) {
    test(`${name}: what a guest writes is what it reads, at once and after a reopen`, async () => {
      const host = memoryHost()
      await makeImage(host, under)
      const random = seeded(71)
      const delays = seeded(72)
      const files = filesOf(host)
      if (file?.driver === 'raw') {
        const image = files.get(imagePath) ?? new Uint8Array(0)
        const shifted = new Uint8Array(shift + image.length)
        shifted.set(image, shift)
        files.set(imagePath, shifted)
      }
      const slow = hostWith(files, { delay: () => (delays() < 0.3 ? 1 + Math.floor(delays() * 5) : 0) })
      const layer = layerOn(slow)
      layer.throttleGroups.add('limits', { 'iops-total': 1e6 })
      const options: OptionTree =
        file === undefined
          ? { ...openOptions(under), file: { driver: 'file', filename: imagePath } }
          : {
              ...openOptions(under),
              file: {
                ...file,
                [file.driver === 'blkdebug' ? 'image' : 'file']: { driver: 'file', filename: imagePath },
              },
            }
      let node = await layer.open(undefined, { ...options, discard: 'unmap' }, { write: true })
      const guest = new Guest(Math.floor(node.length / sector / 4) * 4)
      await exercise(node, guest, random)
      expect(guest.problem(await readAll(node, guest.sectors * sector))).toBeUndefined()
      await layer.unref(node)
      node = await layer.open(undefined, options)
      expect(guest.problem(await readAll(node, guest.sectors * sector))).toBeUndefined()
      await statusAgrees(node)
      await layer.unref(node)
      expect([...layer.nodes]).toEqual([])
    })
  }

  test('opened read-only it refuses writes and leaves its file alone', async () => {
    const host = memoryHost()
    await makeImage(host, under)
    const before = filesOf(host)
    const layer = layerOn(host)
    const node = await layer.open(imagePath, openOptions(under))
    await readAll(node, Math.min(node.length, 1 << 20))
    let refused: unknown
    try {
      await node.write(0, sector, new Uint8Array(sector), 0, 0)
    } catch (error) {
      refused = error
    }
    expect(isBlockError(refused)).toBe(true)
    await layer.unref(node)
    for (const [path, bytes] of before) {
      expect(Buffer.compare(bytes, host.contents(path)?.bytes() ?? new Uint8Array(0)), path).toBe(0)
    }
  })

  if (under.grownSize !== undefined) {
    const grown = under.grownSize
    test('grows: old contents stay, the rest reads as zeroes and takes writes', async () => {
      const host = memoryHost()
      await makeImage(host, under)
      const layer = layerOn(host)
      let node = await layer.open(imagePath, openOptions(under), { write: true })
      const guest = new Guest(Math.floor(node.length / sector / 4) * 4)
      await exercise(node, guest, seeded(5), 40)
      await truncateNode(node, grown, { exact: false, preallocation: 'off', zero: true })
      expect(node.length).toBeGreaterThanOrEqual(grown)
      const bigger = new Guest(Math.floor(grown / sector))
      bigger.current.splice(0, guest.sectors, ...guest.current)
      expect(bigger.problem(await readAll(node, bigger.sectors * sector))).toBeUndefined()
      const tail = bigger.write(bigger.sectors - 3, 3)
      await node.write((bigger.sectors - 3) * sector, tail.length, tail, 0, 0)
      await layer.unref(node)
      node = await layer.open(imagePath, openOptions(under))
      expect(node.length).toBeGreaterThanOrEqual(grown)
      expect(bigger.problem(await readAll(node, bigger.sectors * sector))).toBeUndefined()
      await layer.unref(node)
    })
  }
}

/** What block status calls zero reads as zeroes, and its extents cover the node. */
async function statusAgrees(node: BlockNode): Promise<void> {
  const status = new BlockStatus()
  for (let at = 0; at < node.length; at += status.bytes) {
    await node.status(at, node.length - at, 'zero', status)
    expect(status.bytes).toBeGreaterThan(0)
    expect(at + status.bytes).toBeLessThanOrEqual(node.length)
    if (status.zero) {
      const data = await rangeOf(node, at, Math.min(status.bytes, 1 << 20))
      expect(
        data.every((byte) => byte === 0),
        `zero at ${at}`,
      ).toBe(true)
    }
    if (status.offsetValid && status.data && !status.compressed && status.node !== undefined) {
      const bytes = Math.min(status.bytes, 65536)
      const below = new Uint8Array(bytes)
      await status.node.read(status.offset, bytes, below, 0, 0)
      expect(Buffer.compare(below, await rangeOf(node, at, bytes)), `data of ${at} at ${status.offset}`).toBe(
        0,
      )
    }
  }
}

async function rangeOf(node: BlockNode, offset: number, bytes: number): Promise<Uint8Array> {
  const data = new Uint8Array(bytes)
  await node.read(offset, bytes, data, 0, 0)
  return data
}
