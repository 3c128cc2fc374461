import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { createLibrary, createNodeHost, isBlockError, serve } from '../index.js'

const folder = mkdtempSync(join(tmpdir(), 'nbd-serve-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const MiB = 1 << 20
const path = join(folder, 's')

describe('serving an image', () => {
  // `threads` keeps to Node's streams; `foreground` waits on busy sockets.
  test.each(['auto', 'threads', 'foreground'] as const)(
    'over a Unix socket and over TCP, to several clients (%s)',
    async (io) => {
      const { openImage, createImage, layer } = createLibrary({ host: createNodeHost({ io }) })
      const name = join(folder, `${io}.qcow2`)
      await createImage({ filename: name, format: 'qcow2', size: 4 * MiB })
      {
        await using image = await openImage(name, { readOnly: false })
        for (const listen of [{ path }, { port: 0, host: '127.0.0.1' }]) {
          await using serving = await serve(image, { listen, name: 'disk', description: 'for tests' })
          const clients = await Promise.all(
            [0, 1, 2].map(() => openImage(serving.uri, { format: 'raw', readOnly: true })),
          )
          expect(serving.connections).toBe(3)
          await image.write(12345, new Uint8Array(300_000).fill(5))
          for (const client of clients) {
            expect(client.size).toBe(4 * MiB)
            expect((await client.read(12345, 300_000)).every((byte) => byte === 5)).toBe(true)
            await client.close()
          }
        }
        // The image is the caller's again.
        expect((await image.read(12345, 1))[0]).toBe(5)
      }
      expect(layer.nodes.size).toBe(0)
    },
  )

  test('ends by a signal, and says what is wrong with an address', async () => {
    const { openImage } = createLibrary()
    const name = join(folder, 'a.raw')
    writeFileSync(name, new Uint8Array(MiB))
    await using image = await openImage(name, { format: 'raw' })
    const controller = new AbortController()
    const serving = await serve(image, { listen: { path }, signal: controller.signal })
    const client = await openImage(serving.uri, { format: 'raw' })
    controller.abort()
    await serving.closed
    expect(serving.connections).toBe(0)
    await expect(client.read(0, 512)).rejects.toSatisfy(isBlockError)
    await client.close()
    await expect(serve(image, { listen: { path: '/nonexistent/s' } })).rejects.toThrow(
      'Failed to bind socket to /nonexistent/s: No such file or directory',
    )
    await expect(serve(image, { listen: { path }, readOnly: false })).rejects.toThrow(
      'Cannot export read-only node as writable',
    )
  })
})
