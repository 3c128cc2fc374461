import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isBlockError } from '../../../src/errors/index.js'
import { processContext } from '../../../src/tools/main-process.js'
import { runUmbrella } from '../../../src/tools/umbrella.js'
import { sampleDisk } from '../../formats/built/disk.js'
import { layerOn, memoryHost } from '../../formats/format-under-test.js'
import { readAll } from '../../formats/guest.js'
import { damaged } from './damage.js'

/** Files compressed by the usual programs, read as what they hold. */

const corpus = process.env.BLOCKGRAPH_FULL_MATRIX !== undefined ? 200 : 100

let folder = ''

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'blockgraph-compressed-'))
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

function tool(name: string, ...args: string[]): (data: Uint8Array) => Uint8Array {
  return (input) => execFileSync(name, args, { input, maxBuffer: 1 << 27 })
}

/** Compressed in two halves, one behind the other. */
function twice(pack: (data: Uint8Array) => Uint8Array): (data: Uint8Array) => Uint8Array {
  return (data) => Buffer.concat([pack(data.subarray(0, 2_000_000)), pack(data.subarray(2_000_000))])
}

/** Puts the size into the frame header, which a pipe does not have. */
function zstd(data: Uint8Array): Uint8Array {
  const path = join(folder, 'zstd-input')
  writeFileSync(path, data)
  return tool('zstd', '-q', '-c', path)(new Uint8Array(0))
}

const ways: [string, (data: Uint8Array) => Uint8Array][] = [
  ['gzip', tool('gzip', '-c')],
  ['gzip in two members', twice(tool('gzip', '-c'))],
  ['bgzip', tool('bgzip', '-c')],
  ['xz', tool('xz', '-c')],
  ['xz with blocks', tool('xz', '-c', '-1', '--block-size=300000', '-C', 'crc32')],
  ['xz in two streams', twice(tool('xz', '-c', '-0', '-C', 'none'))],
  ['bzip2', tool('bzip2', '-c')],
  ['bzip2 in two streams', twice(tool('bzip2', '-c', '-2'))],
  ['zstd', zstd],
  ['zstd in two frames', twice(zstd)],
]

const disk = sampleDisk(9000 * 512, 3)

describe.each(ways)('%s', (_name, pack) => {
  test('is read forwards, backwards and here and there', async () => {
    const host = memoryHost()
    host.put('/disk.packed', pack(disk))
    const layer = layerOn(host)
    const node = await layer.open('compressed:/disk.packed', { driver: 'raw' })
    expect(node.length).toBe(disk.length)
    expect(node.filename).toBe('compressed:/disk.packed')
    expect(Buffer.compare(await readAll(node), disk)).toBe(0)
    const part = new Uint8Array(70_000)
    for (const at of [4_500_000, 3_000_000, 1_999_999, 10, 4_000_000, 2_048_000]) {
      await node.read(at, part.length, part, 0, 0)
      expect(Buffer.compare(part, disk.subarray(at, at + part.length)), String(at)).toBe(0)
    }
    await expect(layer.open('compressed:/disk.packed', { driver: 'raw' }, { write: true })).rejects.toThrow(
      'A compressed file cannot be written to',
    )
    await layer.unref(node)
    expect([...layer.nodes]).toEqual([])
  })

  test('damaged files are refused or read', async () => {
    const small = pack(disk.subarray(0, 300_000))
    for (let seed = 0; seed < corpus; seed++) {
      const host = memoryHost()
      const ranges = [
        [0, 60],
        [small.length - 60, small.length],
        [0, small.length],
      ] as const
      host.put('/disk', damaged(small, ranges, seed))
      const layer = layerOn(host)
      try {
        const node = await layer.open('compressed:/disk', { driver: 'raw' })
        try {
          await readAll(node, Math.min(node.length, 1 << 20))
        } finally {
          await layer.unref(node)
        }
      } catch (error) {
        expect(isBlockError(error), `seed ${seed}: ${error}`).toBe(true)
      }
      expect([...layer.nodes], `seed ${seed}`).toEqual([])
    }
  })
})

test('blockgraph convert takes a compressed image of any format', async () => {
  const raw = join(folder, 'disk.raw')
  writeFileSync(raw, disk)
  execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, join(folder, 'disk.qcow2')])
  execFileSync('xz', ['-k', join(folder, 'disk.qcow2')])
  execFileSync('gzip', ['-k', raw])
  const context = processContext('blockgraph', new AbortController().signal)
  for (const name of ['disk.qcow2.xz', 'disk.raw.gz']) {
    const out = join(folder, `${name}.out`)
    expect(await runUmbrella(['convert', '-O', 'raw', join(folder, name), out], context)).toBe(0)
    expect(Buffer.compare(readFileSync(out), disk), name).toBe(0)
  }
})

test('a file that is not compressed is refused', async () => {
  const host = memoryHost()
  host.put('/plain', new Uint8Array(1024))
  await expect(layerOn(host).open('compressed:/plain', { driver: 'raw' })).rejects.toThrow(
    "'/plain' is not compressed with gzip, xz, bzip2 or zstd",
  )
})
