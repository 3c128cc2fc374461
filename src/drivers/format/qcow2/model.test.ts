import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { type BlockLayer, type BlockNode, createBlockLayer, createWithDriver } from '../../../graph/index.js'
import { ReqFlags } from '../../../io/index.js'
import { NodeCodecs } from '../../../platform/node/codecs.js'
import type { Wait } from '../../../sched/index.js'
import { MemoryHost } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { raw } from '../raw/index.js'
import { checkBytes, Random } from './image-fixture.js'
import { qcow2 } from './index.js'

const scratch = mkdtempSync(join(tmpdir(), 'qcow2-model-'))
afterAll(() => rmSync(scratch, { recursive: true }))

interface Shape {
  readonly version: 2 | 3
  readonly clusterSize: number
  readonly refcountBits: number
  /** Size of the backing file relative to the image's; 0: none. */
  readonly backing: number
  readonly delayed: boolean
  readonly sliced: boolean
  readonly extended?: boolean
  readonly seed: number
}

async function settle(wait: Wait): Promise<void> {
  if (wait !== undefined) {
    await wait
  }
}

/** What `qemu-img check` says, and a comparison of the contents with `model`. */
function oracle(image: Uint8Array, base: Uint8Array | undefined, model: Uint8Array, name: string): string {
  const folder = join(scratch, name)
  mkdirSync(folder)
  writeFileSync(join(folder, 'image'), image)
  writeFileSync(join(folder, 'model'), model)
  if (base !== undefined) {
    writeFileSync(join(folder, 'base'), base)
  }
  const options = { encoding: 'utf8', cwd: folder } as const
  try {
    return (
      execFileSync('qemu-img', ['check', '-f', 'qcow2', 'image'], options) +
      execFileSync('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', 'image', 'model'], options)
    )
  } catch (error) {
    return `FAILED ${(error as { stdout: string }).stdout}${(error as { stderr: string }).stderr}`
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** One image, the bytes it should show, and random requests against both. */
class Run {
  readonly random: Random
  readonly shape: Shape
  readonly host: MemoryHost
  readonly layer: BlockLayer
  readonly size: number
  readonly model: Uint8Array
  node!: BlockNode

  constructor(shape: Shape) {
    this.shape = shape
    this.random = new Random(shape.seed)
    const random = new Random(shape.seed + 1)
    this.host = new MemoryHost({
      codecs: new NodeCodecs(),
      delay: () => (shape.delayed ? random.below(4) : 0),
    })
    this.layer = createBlockLayer({ host: this.host, drivers: [raw, qcow2, file] })
    const clusters = shape.clusterSize >= 4096 ? 40 : 400
    this.size = clusters * shape.clusterSize + 512 * this.random.below(shape.clusterSize / 512)
    this.model = new Uint8Array(this.size)
  }

  async create(): Promise<void> {
    const { shape, size } = this
    if (shape.backing !== 0) {
      const base = this.random.fill(new Uint8Array(512 * Math.floor((size * shape.backing) / 512)))
      this.host.put('/base', base)
      this.model.set(base.subarray(0, size))
    }
    await createWithDriver(this.layer, qcow2, '/image', {
      size,
      compat: shape.version === 2 ? '0.10' : '1.1',
      cluster_size: shape.clusterSize,
      refcount_bits: shape.refcountBits,
      ...(shape.extended === true ? { extended_l2: true } : {}),
      ...(shape.backing === 0 ? {} : { backing_file: 'base', backing_fmt: 'raw' }),
    })
  }

  async open(): Promise<void> {
    const options: Record<string, string> = { driver: 'qcow2', discard: 'unmap' }
    if (this.shape.sliced) {
      options['l2-cache-entry-size'] = '512'
      options['l2-cache-size'] = '2048'
    }
    this.node = await this.layer.open('/image', options, { write: true })
  }

  range(): [number, number] {
    const { clusterSize } = this.shape
    const most = this.random.pick([512, clusterSize, clusterSize * 3, clusterSize * 20])
    const unit = this.random.pick([1, 512, clusterSize])
    let start = this.random.below(this.size)
    start -= start % unit
    let bytes = 1 + this.random.below(most)
    bytes = Math.min(this.size - start, Math.ceil(bytes / unit) * unit)
    return [start, bytes]
  }

  /** Starts a random request; its effect on the model is immediate. */
  request(): Wait {
    const [start, bytes] = this.range()
    return this.requestAt(start, bytes)
  }

  requestAt(start: number, bytes: number): Wait {
    const { model, node, random } = this
    const end = start + bytes
    switch (random.below(10)) {
      case 0:
      case 1:
      case 2:
      case 3: {
        const data = random.fill(new Uint8Array(bytes))
        model.set(data, start)
        return node.write(start, bytes, data, 0, 0)
      }
      case 4:
        model.fill(0, start, end)
        return node.writeZeroes(start, bytes, random.chance(0.5) ? ReqFlags.mayUnmap : 0)
      case 5: {
        const { clusterSize, version, backing } = this.shape
        if (version === 3 || backing === 0) {
          const from = Math.ceil(start / clusterSize) * clusterSize
          const to = end === this.size ? end : Math.floor(end / clusterSize) * clusterSize
          model.fill(0, Math.min(from, to), to)
        }
        return node.discard(start, bytes)
      }
      case 6:
        return this.compress(start)
      default: {
        const expected = model.slice(start, end)
        const into = new Uint8Array(bytes).fill(0xee)
        return this.compare(node.read(start, bytes, into, 0, 0), into, expected, start)
      }
    }
  }

  async compress(near: number): Promise<void> {
    const { clusterSize } = this.shape
    const start = near - (near % clusterSize)
    const bytes = Math.min(clusterSize, this.size - start)
    // Only unallocated clusters can be written compressed; others are refused.
    const data = this.random.fill(new Uint8Array(bytes))
    try {
      await settle(this.node.write(start, bytes, data, 0, ReqFlags.writeCompressed))
      this.model.set(data, start)
    } catch (error) {
      expect(error).toMatchObject({ code: 'EIO' })
    }
  }

  async compare(wait: Wait, got: Uint8Array, expected: Uint8Array, at: number): Promise<void> {
    await settle(wait)
    const differs = got.findIndex((byte, i) => byte !== expected[i])
    expect(differs < 0 ? 'equal' : `byte ${at + differs}: ${got[differs]} != ${expected[differs]}`).toBe(
      'equal',
    )
  }

  /** Requests in flight together, on disjoint ranges that often share clusters. */
  async batch(): Promise<void> {
    const waits: Wait[] = []
    const { clusterSize } = this.shape
    let at = this.random.below(Math.max(1, this.size - clusterSize * 4))
    for (let i = 0; i < 8 && at < this.size; i++) {
      const bytes = Math.min(this.size - at, 1 + this.random.below(clusterSize * 2))
      // A compressed write takes a whole cluster and so is no neighbour for others.
      const [start, part] = [at, bytes]
      at += bytes
      waits.push(this.writeOrRead(start, part))
    }
    await Promise.all(waits)
  }

  writeOrRead(start: number, bytes: number): Wait {
    const { model, node, random } = this
    if (random.chance(0.6)) {
      const data = random.fill(new Uint8Array(bytes))
      model.set(data, start)
      return node.write(start, bytes, data, 0, 0)
    }
    if (random.chance(0.6)) {
      model.fill(0, start, start + bytes)
      return node.writeZeroes(start, bytes, random.chance(0.5) ? ReqFlags.mayUnmap : 0)
    }
    const expected = model.slice(start, start + bytes)
    const into = new Uint8Array(bytes)
    return this.compare(node.read(start, bytes, into, 0, 0), into, expected, start)
  }

  async verify(): Promise<void> {
    const into = new Uint8Array(this.size)
    await this.compare(this.node.read(0, this.size, into, 0, 0), into, this.model, 0)
  }

  async close(): Promise<Uint8Array> {
    await this.layer.unref(this.node)
    return this.host.contents('/image')?.bytes() ?? new Uint8Array(0)
  }
}

function shapes(): Shape[] {
  const all: Shape[] = []
  let seed = 1
  for (const clusterSize of [512, 1024, 4096, 65536]) {
    for (const delayed of [false, true]) {
      for (const backing of [0, 0.5, 1.3]) {
        all.push({
          version: 2,
          clusterSize,
          refcountBits: 16,
          backing,
          delayed,
          sliced: backing === 0.5,
          seed: seed++,
        })
        for (const refcountBits of clusterSize === 512 ? [1, 2, 4, 8, 16, 32, 64] : [16, 64]) {
          const sliced = seed % 2 === 0
          all.push({ version: 3, clusterSize, refcountBits, backing, delayed, sliced, seed: seed++ })
        }
      }
    }
  }
  for (const clusterSize of [16384, 65536]) {
    for (const delayed of [false, true]) {
      for (const backing of [0, 0.5, 1.3]) {
        const sliced = seed % 2 === 0
        all.push({
          version: 3,
          clusterSize,
          refcountBits: 16,
          backing,
          delayed,
          sliced,
          extended: true,
          seed: seed++,
        })
      }
    }
  }
  return all
}

describe('random requests against a model', () => {
  test.each(shapes())('%j', async (shape) => {
    const run = new Run(shape)
    await run.create()
    const rounds = shape.clusterSize === 65536 ? 2 : 3
    for (let round = 0; round < rounds; round++) {
      await run.open()
      for (let i = 0; i < 60; i++) {
        if (run.random.chance(0.2)) {
          await run.batch()
        } else {
          await settle(run.request())
        }
        if (run.random.chance(0.1)) {
          await settle(run.node.flush())
        }
      }
      await run.verify()
      const image = await run.close()
      expect(checkBytes(image)).toEqual({ corrupt: [], leaked: [] })
      expect(run.host.warnings).toEqual([])
      if (round === rounds - 1) {
        const said = oracle(image, run.host.contents('/base')?.bytes(), run.model, String(shape.seed))
        expect(said).toContain('No errors were found on the image.')
        expect(said).toContain('Images are identical.')
      }
    }
    await run.open()
    await run.verify()
    await run.close()
  })
})
