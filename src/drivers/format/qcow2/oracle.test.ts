import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isBlockError, strerror } from '../../../errors/index.js'
import {
  BlockChild,
  type BlockLayer,
  type BlockNode,
  type CheckFailure,
  type CheckResult,
  createBlockLayer,
  createFile,
  Role,
} from '../../../graph/index.js'
import { typeOption } from '../../../options/index.js'
import { createNodeHost } from '../../../platform/node/index.js'
import { file } from '../../protocol/file/index.js'
import { BitmapLoader } from './bitmap-load.js'
import { checkImage } from './check.js'
import { create } from './create.js'
import { type HeaderMode, headerBytesNeeded, parseHeader, type Qcow2Header } from './header.js'
import { measure } from './measure.js'
import { qcow2CreateOptions } from './options.js'
import { readSnapshotTable } from './snapshot-table.js'
import { specificInfo } from './specific-info.js'

/** Compares with the qemu-img and qemu-io of this machine; without them there is nothing to compare. */
const oracle = ['qemu-img', 'qemu-io'].every((tool) => spawnSync(tool, ['--version']).status === 0)

let folder = ''
let layer: BlockLayer

beforeAll(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'blockgraph-qcow2-'))
  layer = createBlockLayer({ host: createNodeHost(), drivers: [file] })
})

afterAll(async () => {
  await layer.closeAll()
  fs.rmSync(folder, { recursive: true })
})

function at(name: string): string {
  return path.join(folder, name)
}

function qemuImg(...args: string[]) {
  const run = spawnSync('qemu-img', args, { encoding: 'utf8', maxBuffer: 1 << 28 })
  return { status: run.status, out: run.stdout.trimEnd(), err: run.stderr.trimEnd() }
}

/** Makes an image with qemu-img and lets qemu-io work on it. */
function image(name: string, options: string, size: string, ...commands: string[]): string {
  const target = at(name)
  expect(qemuImg('create', '-q', '-f', 'qcow2', '-o', options, target, size)).toMatchObject({ status: 0 })
  for (const command of commands) {
    if (command.startsWith('write') || command.startsWith('discard')) {
      expect(spawnSync('qemu-io', ['-f', 'qcow2', '-c', command, target]).status).toBe(0)
    } else {
      expect(qemuImg(...command.split(' '), target)).toMatchObject({ status: 0 })
    }
  }
  return target
}

/** Deterministic numbers in `[0, below)`. */
function numbers(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % below
  }
}

async function parsed(node: BlockNode, mode: HeaderMode): Promise<Qcow2Header> {
  const head = new Uint8Array(112)
  await node.read(0, head.length, head, 0, 0)
  const bytes = new Uint8Array(headerBytesNeeded(head))
  await node.read(0, bytes.length, bytes, 0, 0)
  const header = parseHeader(bytes, mode)
  if (mode.check !== true) {
    await readSnapshotTable(node, header)
  }
  for (const bitmap of (await new BitmapLoader(node, header).load(node, true)).values()) {
    bitmap?.release()
  }
  return header
}

async function withNode<T>(name: string, use: (node: BlockNode) => Promise<T>): Promise<T> {
  const node = await layer.open(name, {}, { protocol: true })
  try {
    return await use(node)
  } finally {
    await layer.unref(node)
  }
}

describe.runIf(oracle)('header', () => {
  /** Name, offset and bytes of the fields. */
  const fields = [
    ['magic', 0, 4],
    ['version', 4, 4],
    ['backing offset', 8, 8],
    ['backing size', 16, 4],
    ['cluster bits', 20, 4],
    ['size', 24, 8],
    ['crypt method', 32, 4],
    ['l1 size', 36, 4],
    ['l1 offset', 40, 8],
    ['refcount table offset', 48, 8],
    ['refcount table clusters', 56, 4],
    ['snapshots', 60, 4],
    ['snapshots offset', 64, 8],
    ['incompatible', 72, 8],
    ['compatible', 80, 8],
    ['autoclear', 88, 8],
    ['refcount order', 96, 4],
    ['header length', 100, 4],
    ['compression type', 104, 1],
    ['extension type', 112, 4],
    ['extension length', 116, 4],
  ] as const
  const values = [
    0n,
    1n,
    2n,
    3n,
    7n,
    8n,
    16n,
    22n,
    104n,
    120n,
    512n,
    1023n,
    65536n,
    65537n,
    1n << 31n,
    0xffffffffn,
    0xe2792acan,
    0x6803f857n,
    0x0537be77n,
    0x23852875n,
    1n << 40n,
    1n << 56n,
    1n << 62n,
    0x7fffffffffff0000n,
    (1n << 64n) - 1n,
  ]
  /** Texts about what lies outside this file. */
  const outside = /Could not open backing file|data-file|key-secret|Missing CRYPTO|Could not open '[^/]/

  async function openMessage(name: string, mode: HeaderMode): Promise<string> {
    return await withNode(name, async (node) => {
      try {
        await parsed(node, mode)
        return ''
      } catch (error) {
        if (isBlockError(error)) {
          return error.message
        }
        throw error
      }
    })
  }

  test.each([
    ['plain', 'cluster_size=64k', '64M', []],
    ['small', 'cluster_size=512,refcount_bits=64', '1M', []],
    ['bitmaps', 'cluster_size=4k', '8M', ['bitmap --add b']],
  ])('the message for every damaged field: %s', async (name, options, size, commands) => {
    const target = image(`${name}.qcow2`, options, size)
    for (const command of commands) {
      expect(qemuImg(...command.split(' ').slice(0, 2), target, 'b')).toMatchObject({ status: 0 })
    }
    const original = fs.readFileSync(target)
    const random = numbers(name.length)
    const damaged = at('damaged.qcow2')
    for (const [field, offset, bytes] of fields) {
      for (let i = 0; i < 8; i++) {
        const value = BigInt.asUintN(bytes * 8, values[random(values.length)] ?? 0n)
        const copy = Buffer.from(original)
        copy.write(value.toString(16).padStart(bytes * 2, '0'), offset, 'hex')
        fs.writeFileSync(damaged, copy)
        for (const mode of [{ check: true }, { noIo: true }]) {
          const run = qemuImg(mode.check === true ? 'check' : 'info', '-f', 'qcow2', damaged)
          const expected = /Could not open '[^']*': (.*)/.exec(run.err)?.[1] ?? ''
          if (!outside.test(expected)) {
            expect([field, value, mode, await openMessage(damaged, mode)]).toEqual([
              field,
              value,
              mode,
              expected,
            ])
          }
        }
      }
    }
  })

  test.each(['compat=0.10', 'compat=1.1', 'compression_type=zstd,lazy_refcounts=on,refcount_bits=1'])(
    'format specific information: %s',
    async (options) => {
      const target = image('info.qcow2', options, '1M')
      if (!options.includes('0.10')) {
        expect(qemuImg('bitmap', '--add', '-g', '32k', target, 'b0')).toMatchObject({ status: 0 })
      }
      const info = JSON.parse(qemuImg('info', '--output=json', target).out)['format-specific']
      const ours = await withNode(target, async (node) => specificInfo(await parsed(node, {}), node))
      expect(JSON.stringify(ours)).toBe(JSON.stringify(info))
    },
  )
})

describe.runIf(oracle)('check', () => {
  interface Outcome {
    readonly lines: readonly string[]
    readonly numbers: Record<string, number>
  }

  function counted(result: CheckResult): Record<string, number> {
    return {
      'image-end-offset': result.imageEndOffset,
      'total-clusters': result.totalClusters,
      'allocated-clusters': result.allocatedClusters,
      'fragmented-clusters': result.fragmentedClusters,
      'compressed-clusters': result.compressedClusters,
      'check-errors': result.checkErrors,
      corruptions: result.corruptions,
      leaks: result.leaks,
    }
  }

  async function ours(name: string): Promise<Outcome> {
    return await withNode(name, async (node) => {
      let header: Qcow2Header
      try {
        header = await parsed(node, { check: true })
      } catch (error) {
        return { lines: [(error as Error).message], numbers: {} }
      }
      const child = new BlockChild('file', Role.image, { description: 'test' }, node)
      try {
        const result = await checkImage({ header, file: child }, { leaks: false, errors: false })
        const failed = result.checkErrors > 0 ? ['Check failed'] : []
        return { lines: [...result.messages, ...failed], numbers: counted(result) }
      } catch (error) {
        if (!isBlockError(error)) {
          throw error
        }
        const { partial } = error.cause as CheckFailure
        return { lines: [...partial.messages, `Check failed: ${strerror(error.code)}`], numbers: {} }
      }
    })
  }

  function theirs(name: string): Outcome {
    const run = qemuImg('check', '-f', 'qcow2', '--output=json', name)
    const lines = run.err
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => line.replace(/^qemu-img: (Could not open '[^']*': )?/, ''))
    if (run.out === '') {
      return { lines, numbers: {} }
    }
    const json: Record<string, number> = JSON.parse(run.out)
    const keys = Object.keys(counted({} as CheckResult))
    return { lines, numbers: Object.fromEntries(keys.map((key) => [key, json[key] ?? 0])) }
  }

  /** Offsets of words in the image's tables: what damage to them does is worth comparing. */
  function tableWords(bytes: Buffer): number[] {
    const cluster = 2 ** bytes.readUInt32BE(20)
    const found: number[] = []
    const add = (offset: number, length: number) => {
      for (let i = 0; i < length && offset + i + 8 <= bytes.length; i += 8) {
        found.push(offset + i)
      }
    }
    const follow = (table: number, entries: number, length: number) => {
      for (let i = 0; i < entries && table + i * 8 + 8 <= bytes.length; i++) {
        const entry = Number(bytes.readBigUInt64BE(table + i * 8) & 0xfffffffffffe00n)
        if (entry !== 0) {
          add(entry, Math.min(cluster, length))
        }
      }
    }
    const l1 = Number(bytes.readBigUInt64BE(40))
    const refcounts = Number(bytes.readBigUInt64BE(48))
    add(l1, Math.min(bytes.readUInt32BE(36) * 8, 256))
    add(refcounts, 64)
    follow(l1, bytes.readUInt32BE(36), 1024)
    follow(refcounts, 64, 256)
    const snapshots = Number(bytes.readBigUInt64BE(64))
    if (snapshots !== 0) {
      add(snapshots, 256)
    }
    return found
  }

  const images: [string, string, string, string[]][] = [
    [
      'all-kinds',
      'cluster_size=4k',
      '8M',
      ['write -P 1 0 300k', 'write -z 1M 1M', 'write -z -u 3M 1M', 'write -c -P 5 5M 64k', 'write -c 6M 8k'],
    ],
    ['narrow', 'cluster_size=512,refcount_bits=1', '256k', ['write -P 1 0 20k', 'write -P 2 100k 13k']],
    [
      'snapshots',
      'cluster_size=4k,refcount_bits=64',
      '4M',
      ['write -P 1 0 300k', 'snapshot -c one', 'write -P 5 100k 300k', 'snapshot -c two'],
    ],
    [
      'old',
      'compat=0.10,cluster_size=1k',
      '1M',
      ['write -P 1 0 300k', 'write -c 512k 1k', 'snapshot -c one'],
    ],
    ['zstd', 'cluster_size=2k,refcount_bits=32,compression_type=zstd', '1M', ['write -c -P 1 0 300k']],
    ['large', 'cluster_size=2M', '1G', ['write -P 1 0 5M', 'write -c -P 1 100M 2M']],
  ]

  test.each(images)('sound and damaged: %s', async (name, options, size, commands) => {
    const target = image(`${name}.qcow2`, options, size, ...commands)
    expect(await ours(target)).toEqual(theirs(target))
    const original = fs.readFileSync(target)
    const words = tableWords(original)
    const random = numbers(name.length * 7919)
    const cluster = 2 ** original.readUInt32BE(20)
    const damaged = at('damaged.qcow2')
    for (let round = 0; round < (cluster > 65536 ? 12 : 40); round++) {
      const copy = Buffer.from(original)
      const changes: string[] = []
      for (let i = 0; i <= random(3); i++) {
        const where = words[random(words.length)] ?? 0
        const old = copy.readBigUInt64BE(where)
        const candidates = [
          0n,
          old ^ (1n << BigInt(random(64))),
          old ^ (1n << 63n),
          old ^ (1n << 62n),
          old ^ 1n,
          (BigInt(random(40)) * BigInt(cluster)) | (BigInt(random(2)) << 63n),
          BigInt(random(0x7fffffff)) * BigInt(random(0x7fffffff)),
          old + BigInt(cluster),
        ]
        const value = BigInt.asUintN(64, candidates[random(candidates.length)] ?? 0n)
        copy.writeBigUInt64BE(value, where)
        changes.push(`${where.toString(16)}: ${old.toString(16)} -> ${value.toString(16)}`)
      }
      const length = random(12) === 0 ? random(copy.length) : copy.length
      fs.writeFileSync(damaged, copy.subarray(0, length))
      expect({ changes, length, ...(await ours(damaged)) }).toEqual({ changes, length, ...theirs(damaged) })
    }
  })
})

describe.runIf(oracle)('create and measure', () => {
  type Schema = Record<string, Parameters<typeof typeOption>[1]>

  function typed(options: string, size: string): Record<string, string | number | boolean> {
    const schema: Schema = qcow2CreateOptions
    const words = [...options.split(',').filter((word) => word !== ''), `size=${size}`]
    return Object.fromEntries(
      words.map((word) => {
        const [name = '', value = ''] = word.split('=', 2)
        return [name, typeOption(name, schema[name] ?? { type: 'string' }, value)]
      }),
    )
  }

  async function createOurs(options: string, size: string): Promise<void> {
    const target = at('ours.qcow2')
    fs.rmSync(target, { force: true })
    const opened: BlockNode[] = []
    try {
      await create({
        layer,
        host: layer.host,
        filename: target,
        options: typed(options, size),
        createFurtherFile: () => Promise.reject(new Error('one file is enough here')),
        createFile: async (bytes) => {
          await createFile(layer, target, { size: bytes })
          const node = await layer.open(target, {}, { write: true, protocol: true })
          opened.push(node)
          return node
        },
      })
    } finally {
      for (const node of opened) {
        await layer.unref(node)
      }
    }
  }

  const choices = [
    ['compat=0.10', 'compat=1.1', 'compat=v3'],
    ['', 'cluster_size=512', 'cluster_size=4k', 'cluster_size=2M'],
    ['', 'refcount_bits=1', 'refcount_bits=64'],
    ['', 'backing_file=base.raw,backing_fmt=raw', 'lazy_refcounts=on', 'compression_type=zstd'],
    ['0', '1000', '1M', '3G'],
  ] as const
  const matrix = choices[0].flatMap((compat) =>
    choices[1].flatMap((cluster) =>
      choices[2].flatMap((refcounts) =>
        choices[3].map((rest) => [compat, cluster, refcounts, rest].filter((word) => word !== '').join(',')),
      ),
    ),
  )

  test('a fresh image has the same bytes and occupies the same space', async () => {
    const [ours, theirs] = [at('ours.qcow2'), at('theirs.qcow2')]
    for (const options of matrix) {
      for (const size of options.includes('=512') ? choices[4].slice(0, 3) : choices[4]) {
        fs.rmSync(theirs, { force: true })
        const run = qemuImg('create', '-q', '-u', '-f', 'qcow2', '-o', options, theirs, size)
        const message = await createOurs(options, size).then(
          () => '',
          (error: Error) => error.message,
        )
        expect([options, size, message]).toEqual([options, size, run.err.replace(/^qemu-img: \S+: /, '')])
        if (run.status === 0) {
          const same = fs.readFileSync(ours).equals(fs.readFileSync(theirs))
          const space = fs.statSync(ours).blocks === fs.statSync(theirs).blocks
          expect([options, size, same, space]).toEqual([options, size, true, true])
        }
      }
    }
  })

  test('measure', async () => {
    const sizes = ['0', '1', '65537', '5G', '64T', '2P']
    const options = [
      '',
      'compat=0.10',
      'cluster_size=512',
      'cluster_size=2M',
      'refcount_bits=64,cluster_size=4k',
    ]
    for (const option of [
      ...options,
      'preallocation=full',
      'extended_l2=on',
      'compat=v3',
      'refcount_bits=5',
    ]) {
      for (const size of sizes) {
        const run = qemuImg(
          'measure',
          '-O',
          'qcow2',
          ...(option === '' ? [] : ['-o', option]),
          '--size',
          size,
        )
        const text = await measure({ layer, options: typed(option, size) }).then(
          ({ required, fullyAllocated }) =>
            `required size: ${required}\nfully allocated size: ${fullyAllocated}`,
          (error: Error) => `qemu-img: ${error.message}`,
        )
        expect([option, size, text]).toEqual([option, size, run.out + run.err])
      }
    }
  })
})
