import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type BlockLayer, createBlockLayer, createWithDriver, truncateNode } from '../../../graph/index.js'
import { ReqFlags } from '../../../io/index.js'
import { createNodeHost } from '../../../platform/node/index.js'
import { file } from '../../protocol/file/index.js'
import { checkBytes, Random } from './image-fixture.js'
import { qcow2 } from './index.js'

/**
 * The same requests through qemu-io and through this driver leave the same bytes. Not compared are
 * compressed clusters (another deflate) and discards (this driver makes no L2 table to say that
 * nothing is there). `LAYOUT_SEEDS` sets how much is tried.
 */
const oracle = ['qemu-img', 'qemu-io'].every((tool) => spawnSync(tool, ['--version']).status === 0)
const seeds = Number(process.env.LAYOUT_SEEDS ?? 25)

let folder = ''
let layer: BlockLayer

beforeAll(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'blockgraph-layout-'))
  layer = createBlockLayer({ host: createNodeHost(), drivers: [qcow2, file] })
})

afterAll(() => {
  fs.rmSync(folder, { recursive: true })
})

function qemu(tool: string, ...args: string[]): string {
  return execFileSync(tool, args, { encoding: 'utf8', stdio: 'pipe' })
}

/** Two equal fresh images: for QEMU and for us. */
function twins(random: Random, clusterSizes: readonly number[]) {
  const [theirs, ours] = [path.join(folder, 'qemu'), path.join(folder, 'ours')]
  const clusterSize = random.pick(clusterSizes)
  const old = random.chance(0.3)
  const size = clusterSize * (20 + random.below(clusterSize <= 1024 ? 2000 : 200))
  const refcountBits = old ? 16 : random.pick([16, 16, 8, 64, 1])
  const options = `cluster_size=${clusterSize},compat=${old ? '0.10' : '1.1'},refcount_bits=${refcountBits}`
  qemu('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, theirs, String(size))
  fs.copyFileSync(theirs, ours)
  return { theirs, ours, clusterSize, size, old, what: `${options} ${size}` }
}

function firstDifference(a: string, b: string): string {
  const [left, right] = [fs.readFileSync(a), fs.readFileSync(b)]
  const at = left.findIndex((byte, i) => byte !== right[i])
  return at < 0 && left.length === right.length ? 'none' : `at ${at}, lengths ${left.length} ${right.length}`
}

test.runIf(oracle)('writes', async () => {
  for (let seed = 0; seed < seeds; seed++) {
    const random = new Random(seed)
    const { theirs, ours, clusterSize, size, old, what } = twins(random, [512, 1024, 4096, 65536])
    const commands: string[] = []
    const node = await layer.open(ours, { driver: 'qcow2' }, { write: true })
    for (let i = 0; i < 15; i++) {
      const unit = random.pick([512, clusterSize])
      let start = random.below(size)
      start -= start % unit
      const bytes = Math.min(size - start, (1 + random.below(random.pick([1, 4, 30]))) * unit)
      if (random.chance(0.8) || old) {
        const value = 1 + random.below(255)
        commands.push('-c', `write -P ${value} ${start} ${bytes}`)
        await node.write(start, bytes, new Uint8Array(bytes).fill(value), 0, 0)
      } else {
        commands.push('-c', `write -z ${start} ${bytes}`)
        await node.writeZeroes(start, bytes, 0)
      }
    }
    await layer.unref(node)
    qemu('qemu-io', '-f', 'qcow2', ...commands, theirs)
    expect(firstDifference(theirs, ours), `seed ${seed}, ${what}, ${commands.join(' ')}`).toBe('none')
  }
})

test.runIf(oracle)('L1 tables that need many refcount blocks', async () => {
  for (const [clusterSize, refcountBits, size] of [
    [512, 64, 4 * 2 ** 30],
    [512, 1, 3 * 2 ** 30 + 512],
    [1024, 32, 20 * 2 ** 30],
  ] as const) {
    const [theirs, ours] = [path.join(folder, 'qemu'), path.join(folder, 'ours')]
    const options = `cluster_size=${clusterSize},refcount_bits=${refcountBits}`
    qemu('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, theirs, String(size))
    fs.rmSync(ours, { force: true })
    await createWithDriver(layer, qcow2, ours, {
      size,
      cluster_size: clusterSize,
      refcount_bits: refcountBits,
    })
    expect(firstDifference(theirs, ours), `${options} ${size}`).toBe('none')
  }
})

test.runIf(oracle)('growing with and without preallocation', async () => {
  for (let seed = 0; seed < seeds; seed++) {
    const random = new Random(seed)
    const { theirs, ours, clusterSize, size, what } = twins(random, [1024, 65536])
    const grown = size + clusterSize * (1 + random.below(clusterSize === 1024 ? 3000 : 300))
    const preallocation = random.pick(['off', 'metadata', 'falloc', 'full'] as const)
    qemu('qemu-img', 'resize', '-q', '-f', 'qcow2', `--preallocation=${preallocation}`, theirs, String(grown))
    const node = await layer.open(ours, { driver: 'qcow2' }, { write: true })
    await truncateNode(node, grown, { exact: true, preallocation, zero: false })
    await layer.unref(node)
    expect(firstDifference(theirs, ours), `seed ${seed}, ${what} to ${grown} ${preallocation}`).toBe('none')
  }
})

test.runIf(oracle)('shrinking leaves a sound image', async () => {
  for (let seed = 0; seed < seeds; seed++) {
    const random = new Random(seed)
    const { ours, size, clusterSize, what } = twins(random, [512, 4096])
    const node = await layer.open(ours, { driver: 'qcow2' }, { write: true })
    const expected = new Uint8Array(size)
    for (let i = 0; i < 10; i++) {
      const start = random.below(size)
      const bytes = Math.min(size - start, 1 + random.below(clusterSize * 10))
      const data = random.fill(new Uint8Array(bytes))
      expected.set(data, start)
      await node.write(start, bytes, data, 0, 0)
    }
    const length = 512 * random.below(size / 512)
    await truncateNode(node, length, { exact: true, preallocation: 'off', zero: false })
    const got = new Uint8Array(length)
    await node.read(0, length, got, 0, 0)
    expect(Buffer.compare(got, expected.subarray(0, length)), `seed ${seed}, ${what} to ${length}`).toBe(0)
    await layer.unref(node)
    expect(checkBytes(fs.readFileSync(ours))).toEqual({ corrupt: [], leaked: [] })
    expect(qemu('qemu-img', 'check', '-f', 'qcow2', ours)).toContain('No errors were found')
  }
})

test.runIf(oracle)('QEMU reads compressed clusters of both kinds', async () => {
  for (const kind of ['zlib', 'zstd']) {
    const [ours, copy] = [path.join(folder, kind), path.join(folder, 'raw')]
    const size = 40 * 65536 + 512
    qemu('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', `compression_type=${kind}`, ours, String(size))
    const random = new Random(5)
    const data = random.fill(new Uint8Array(size))
    // Not everything can be compressed.
    for (let i = 65536 * 3; i < 65536 * 5; i++) {
      data[i] = random.below(256)
    }
    const node = await layer.open(ours, { driver: 'qcow2' }, { write: true })
    await node.write(0, size, data, 0, ReqFlags.writeCompressed)
    await node.write(0, 0, data, 0, ReqFlags.writeCompressed)
    const back = new Uint8Array(size)
    await node.read(0, size, back, 0, 0)
    expect(Buffer.compare(back, data)).toBe(0)
    await layer.unref(node)
    expect(fs.statSync(ours).size % 512).toBe(0)
    fs.writeFileSync(copy, data)
    expect(qemu('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', ours, copy)).toContain('identical')
    expect(qemu('qemu-img', 'check', '-f', 'qcow2', ours)).toContain('No errors were found')
  }
})
