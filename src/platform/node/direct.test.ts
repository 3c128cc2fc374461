import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { HostFile } from '../../host/index.js'
import { createNodeHost } from './host.js'
import { libc } from './libc.js'
import { alignedBuffer, isAligned } from './memory.js'

let folder = ''

beforeAll(() => {
  // Memory file systems may lack O_DIRECT, /var/tmp seldom is one.
  folder = fs.mkdtempSync(join(fs.existsSync('/var/tmp') ? '/var/tmp' : tmpdir(), 'blockgraph-direct-'))
})

afterAll(() => {
  fs.rmSync(folder, { recursive: true })
})

async function direct(io: 'auto' | 'sync' | 'threads', path: string): Promise<HostFile | undefined> {
  try {
    return await createNodeHost({ io }).files.open(path, { write: true, direct: true })
  } catch {
    return undefined
  }
}

test.runIf(libc() !== undefined)('aligned memory is aligned', () => {
  for (const align of [512, 4096, 65536]) {
    const buffer = alignedBuffer(align, 10_000)
    expect(buffer.length).toBe(10_000)
    expect(isAligned(buffer, 0, align)).toBe(true)
    expect(isAligned(buffer, align, align)).toBe(true)
    expect(isAligned(buffer, 1, align)).toBe(false)
    expect(isAligned(buffer, 1, 1)).toBe(true)
  }
})

describe.runIf(libc() !== undefined).each(['auto', 'sync', 'threads'] as const)(
  'O_DIRECT, policy %s',
  (io) => {
    test('requests work whether or not the memory is aligned', async ({ skip }) => {
      const path = join(folder, `data-${io}`)
      const data = Uint8Array.from({ length: 65536 }, (_, i) => (i * 7) & 0xff)
      fs.writeFileSync(path, data)
      const file = await direct(io, path)
      if (file === undefined) {
        skip()
        return
      }
      const { request, memory } = file.alignment
      expect([512, 1024, 2048, 4096]).toContain(request)
      expect([512, 1024, 2048, 4096]).toContain(memory)
      const aligned = alignedBuffer(memory, 65536)
      await file.read(0, 65536, aligned, 0)
      expect(Buffer.compare(aligned, data)).toBe(0)
      const odd = new Uint8Array(65536 + 3)
      await file.read(4096, 8192, odd, 3)
      expect(Buffer.compare(odd.subarray(3, 8195), data.subarray(4096, 12_288))).toBe(0)
      odd.fill(0x55)
      await file.write(8192, 4096, odd, 1)
      await file.write(16_384, 4096, aligned.fill(0x66), 0)
      await file.sync()
      await file.close()
      const after = fs.readFileSync(path)
      expect(after.subarray(8192, 12_288).every((byte) => byte === 0x55)).toBe(true)
      expect(after.subarray(16_384, 20_480).every((byte) => byte === 0x66)).toBe(true)
      expect(after[8191]).toBe(data[8191])
      expect(after[12_288]).toBe(data[12_288])
    })

    test('the end of the file may be anywhere', async ({ skip }) => {
      const path = join(folder, `end-${io}`)
      fs.writeFileSync(path, new Uint8Array(10_001).fill(3))
      const file = await direct(io, path)
      if (file === undefined) {
        skip()
        return
      }
      const buffer = alignedBuffer(4096, 16_384).fill(0xee)
      await file.read(8192, 8192, buffer, 0)
      expect(buffer.subarray(0, 1809).every((byte) => byte === 3)).toBe(true)
      expect(buffer.subarray(1809, 8192).every((byte) => byte === 0)).toBe(true)
      expect(buffer[8192]).toBe(0xee)
      await file.read(1 << 20, 4096, buffer, 8192)
      expect(buffer.subarray(8192, 12_288).every((byte) => byte === 0)).toBe(true)
      await file.close()
    })

    test('a file that shows no alignment gets a safe one', async ({ skip }) => {
      const path = join(folder, `empty-${io}`)
      fs.writeFileSync(path, '')
      const file = await direct(io, path)
      if (file === undefined) {
        skip()
        return
      }
      expect(file.alignment.request).toBeGreaterThanOrEqual(512)
      expect(file.alignment.memory).toBeGreaterThanOrEqual(512)
      await file.close()
    })
  },
)
