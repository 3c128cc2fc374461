import { execFileSync } from 'node:child_process'
import zlib from 'node:zlib'
import { beforeAll, describe, expect, test } from 'vitest'
import { codeOf } from '../../errors/index.js'
import type { Codec } from '../../host/index.js'
import { NodeCodecs } from './codecs.js'

const codecs = new NodeCodecs()
const cluster = 65536

function text(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => 32 + ((i * i + (i >> 4)) % 61))
}

function noise(length: number): Uint8Array {
  let state = 12345
  return Uint8Array.from({ length }, () => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return state >>> 24
  })
}

/** Output of an external program, or undefined if it is not there. */
function filtered(program: string, args: string[], input: Uint8Array): Uint8Array | undefined {
  try {
    return new Uint8Array(execFileSync(program, args, { input, stdio: ['pipe', 'pipe', 'ignore'] }))
  } catch {
    return undefined
  }
}

async function compressed(codec: Codec, input: Uint8Array, limit = input.length): Promise<Uint8Array> {
  const output = await codec.compress(input, limit)
  expect(output).toBeDefined()
  return new Uint8Array(output ?? [])
}

function joined(...parts: Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts))
}

/** Whether two arrays are alike; a matcher would take seconds for one cluster. */
function alike(a: Uint8Array | undefined, b: Uint8Array): boolean {
  return a !== undefined && Buffer.compare(a, b) === 0
}

/** Decompresses both ways, which must agree; `'as expected'` or the code of the error. */
async function decompressed(codec: Codec, input: Uint8Array, expected: Uint8Array | number): Promise<string> {
  const length = typeof expected === 'number' ? expected : expected.length
  const results: string[] = []
  for (const run of [
    (output: Uint8Array) => {
      codec.decompress(input, output)
    },
    (output: Uint8Array) => codec.decompressAsync(input, output),
  ]) {
    const output = new Uint8Array(length).fill(0xee)
    try {
      await run(output)
      results.push(typeof expected !== 'number' && alike(output, expected) ? 'as expected' : 'other data')
    } catch (error) {
      results.push(codeOf(error))
    }
  }
  expect(results[0]).toBe(results[1])
  return results[0] ?? ''
}

describe.each(['deflate', 'zstd'] as const)('%s', (name) => {
  test('gives back what went in, with anything after it', async () => {
    const codec = await codecs[name]()
    for (const data of [text(cluster), new Uint8Array(cluster), text(1), text(2 << 20)]) {
      const small = await compressed(codec, data, data.length + 100)
      expect(await decompressed(codec, small, data)).toBe('as expected')
      for (const padding of [new Uint8Array(511), new Uint8Array(300).fill(0xff), small.subarray(0, 200)]) {
        expect(await decompressed(codec, joined(small, padding), data)).toBe('as expected')
      }
    }
  })

  test('what does not fit is given up', async () => {
    const codec = await codecs[name]()
    expect(await codec.compress(noise(cluster), cluster - 1)).toBeUndefined()
    expect(await codec.compress(text(cluster), 10)).toBeUndefined()
    const exact = await compressed(codec, text(cluster))
    expect((await codec.compress(text(cluster), exact.length))?.length).toBe(exact.length)
    expect(await codec.compress(text(cluster), exact.length - 1)).toBeUndefined()
  })

  test('streams that are short, cut off or corrupt give EIO', async () => {
    const codec = await codecs[name]()
    const small = await compressed(codec, text(cluster))
    expect(await decompressed(codec, small, cluster + 1)).toBe('EIO')
    expect(await decompressed(codec, small.subarray(0, small.length >> 1), cluster)).toBe('EIO')
    expect(await decompressed(codec, new Uint8Array(0), cluster)).toBe('EIO')
    expect(await decompressed(codec, noise(5000).fill(0xff, 0, 8), cluster)).toBe('EIO')
  })
})

describe('deflate', () => {
  let codec: Codec
  beforeAll(async () => {
    codec = await codecs.deflate()
  })

  test('streams made by zlib with a 4 KiB window are read, and ours need no more', async ({ skip }) => {
    const script = (code: string): string[] => [
      '-c',
      `import sys, zlib\ni = sys.stdin.buffer.read()\n${code}\nsys.stdout.buffer.write(o)`,
    ]
    const data = joined(text(30_000), noise(5536), new Uint8Array(30_000))
    const made = filtered(
      'python3',
      script('c = zlib.compressobj(-1, 8, -12, 9)\no = c.compress(i) + c.flush()'),
      data,
    )
    if (made === undefined) {
      skip()
      return
    }
    expect(await decompressed(codec, joined(made, new Uint8Array(400).fill(0xaa)), data)).toBe('as expected')
    const ours = await compressed(codec, data)
    expect(alike(filtered('python3', script('o = zlib.decompressobj(-12).decompress(i)'), ours), data)).toBe(
      true,
    )
  })

  test('a wider window is read as well', async () => {
    const data = joined(noise(20_000), noise(20_000))
    const wide = zlib.deflateRawSync(data, { windowBits: 15 })
    expect(wide.length).toBeLessThan(30_000)
    expect(await decompressed(codec, wide, data)).toBe('as expected')
  })

  test('of a stream that holds more, the beginning is taken', async () => {
    const data = text(3 * cluster)
    const long = zlib.deflateRawSync(data)
    for (const length of [1, 511, cluster, data.length - 1]) {
      expect(await decompressed(codec, long, data.subarray(0, length))).toBe('as expected')
    }
    const bomb = zlib.deflateRawSync(new Uint8Array(64 << 20))
    expect(await decompressed(codec, bomb, new Uint8Array(cluster))).toBe('as expected')
  })
})

describe('zstd', () => {
  test('several frames fill one cluster, empty and skippable ones among them', async () => {
    const codec = await codecs.zstd()
    const data = text(cluster)
    const parts = [data.subarray(0, 1000), data.subarray(1000, 40_000), data.subarray(40_000)]
    const frames = await Promise.all(parts.map((part) => compressed(codec, part, cluster)))
    const skippable = Uint8Array.from([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3])
    const all = joined(skippable, ...frames, new Uint8Array(100).fill(0xff))
    expect(await decompressed(codec, all, data)).toBe('as expected')
    expect(await decompressed(codec, joined(...frames.slice(0, 2)), cluster)).toBe('EIO')
  })

  test('a frame that holds more than the cluster is corrupt', async () => {
    const codec = await codecs.zstd()
    const small = await compressed(codec, text(cluster + 1))
    expect(await decompressed(codec, small, cluster)).toBe('EIO')
  })

  test('frames of the zstd program are read, sizes stated or not', async ({ skip }) => {
    const codec = await codecs.zstd()
    const data = text(cluster)
    for (const args of [
      ['-c'],
      ['-c', '--no-content-size'],
      ['-c', '-19', '--check'],
      ['-c', '--no-check'],
    ]) {
      const made = filtered('zstd', args, data)
      if (made === undefined) {
        skip()
        return
      }
      expect(await decompressed(codec, joined(made, new Uint8Array(77)), data)).toBe('as expected')
      expect(await decompressed(codec, made, cluster - 1)).toBe('EIO')
    }
    expect(alike(filtered('zstd', ['-dc'], await compressed(codec, data)), data)).toBe(true)
  })
})
