import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readU32LE, readU64LE } from '../../../src/bytes/index.js'
import { convertToSink } from '../../../src/image/index.js'
import { Workshop } from '../image/qemu.js'

const shop = new Workshop()

afterAll(async () => {
  await shop.clear()
})

const MiB = 1 << 20
/** Data in some places of a disk: at its start, across grains, across tables (32 MiB), at its end. */
const places = [0, 40_000, 5 * MiB - 70_000, 32 * MiB - 512, 64 * MiB, 99 * MiB + 512]

async function streamed(size: number, options = 'subformat=streamOptimized'): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  await convertToSink(
    shop.layer,
    {
      write: (chunk) => {
        chunks.push(chunk.slice())
        return undefined
      },
    },
    {
      sources: [{ filename: path.join(shop.folder, `source-${size}`), format: 'raw' }],
      format: 'vmdk',
      options,
    },
  )
  return Buffer.concat(chunks)
}

const sizes = [100 * MiB, 100 * MiB + 512, 512, 3 * MiB]

beforeAll(() => {
  for (const size of sizes) {
    const source = path.join(shop.folder, `source-${size}`)
    fs.writeFileSync(source, '')
    fs.truncateSync(source, size)
    const fd = fs.openSync(source, 'r+')
    for (const [index, at] of [...places, size - 512].entries()) {
      const bytes = Math.min(150_000, size - at)
      if (bytes > 0) {
        fs.writeSync(fd, Buffer.alloc(bytes, index + 1), 0, bytes, at)
      }
    }
    fs.closeSync(fd)
  }
})

test.each(sizes)('a disk of %i bytes is what QEMU and libvmdk read', async (size) => {
  const image = path.join(shop.folder, `image-${size}.vmdk`)
  fs.writeFileSync(image, await streamed(size))
  expect(
    shop.img('compare', '-f', 'vmdk', '-F', 'raw', image, path.join(shop.folder, `source-${size}`)),
  ).toBe('Images are identical.\n')
  expect(shop.img('check', '-f', 'vmdk', image)).toBe('No errors were found on the image.\n')
  const info = execFileSync('vmdkinfo', [image], { encoding: 'utf8' })
  expect(info).toMatch(/Disk type:\s+Stream optimized/)
  expect(info).toContain(`(${size} bytes)`)
})

test('an empty disk', async () => {
  const source = path.join(shop.folder, 'source-0')
  fs.writeFileSync(source, '')
  fs.truncateSync(source, 40 * MiB)
  const bytes = await streamed(0)
  // Header, descriptor and what fills the first grain; directory and footer with markers; the end.
  expect(bytes.length).toBe((128 + 2 + 2 + 1) * 512)
})

/** Walks through the file as an importer does that only reads forwards. */
test('markers lead from the header to the end of the stream', async () => {
  const bytes = await streamed(100 * MiB)
  expect(readU32LE(bytes, 4)).toBe(3)
  expect(readU32LE(bytes, 8)).toBe(0x30001)
  expect([...bytes.subarray(56, 64)]).toEqual(new Array(8).fill(0xff))
  const tables: number[] = []
  const grains = new Map<number, number>()
  let directory = 0
  let at = readU64LE(bytes, 64) * 512
  let last = -1
  for (;;) {
    const value = readU64LE(bytes, at)
    const size = readU32LE(bytes, at + 8)
    if (size > 0) {
      expect(value).toBeGreaterThan(last)
      last = value
      grains.set(value / 128, at / 512)
      at += Math.ceil((12 + size) / 512) * 512
      continue
    }
    const type = readU32LE(bytes, at + 12)
    at += 512
    if (type === 0) {
      break
    }
    if (type === 1) {
      tables.push(at / 512)
      for (let i = 0; i < 512; i++) {
        const entry = readU32LE(bytes, at + i * 4)
        if (entry !== 0) {
          expect([...grains.values()]).toContain(entry)
        }
      }
    } else if (type === 2) {
      directory = at / 512
      const used = Array.from({ length: value * 128 }, (_, i) => readU32LE(bytes, at + i * 4)).filter(
        (entry) => entry !== 0,
      )
      expect(used).toEqual(tables)
    } else {
      expect([type, value]).toEqual([3, 1])
      expect(readU64LE(bytes, at + 56)).toBe(directory)
    }
    at += value * 512
  }
  expect(at).toBe(bytes.length)
  expect(tables.length).toBe(4)
})

test.each([
  ['subformat=streamOptimized,backing_file=x', 'An image with a backing file cannot be written as a stream'],
  ['subformat=streamOptimized,adapter_type=foo', 'invalid parameter value: foo'],
  ['subformat=twoGbMaxExtentSparse', 'An image of several files cannot be written to a stream'],
  ['subformat=monolithicFlat', 'An image of several files cannot be written to a stream'],
])('%s is refused', async (options, message) => {
  await expect(streamed(512, options)).rejects.toThrow(message)
})
