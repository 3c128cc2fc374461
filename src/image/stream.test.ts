import { describe, expect, test } from 'vitest'
import { allDrivers } from '../all-drivers.js'
import { isBlockError } from '../errors/index.js'
import { type BlockLayer, createBlockLayer } from '../graph/index.js'
import { createNodeHost } from '../platform/node/index.js'
import { MemoryHost } from '../testing/index.js'
import { convertImage } from './convert.js'
import { openImage } from './open.js'
import { convertFromSource } from './stream-in.js'
import { type ByteSink, convertToSink } from './stream-out.js'

const MiB = 1048576

function setUp(): { layer: BlockLayer; host: MemoryHost } {
  const host = new MemoryHost({ codecs: createNodeHost().codecs })
  return { layer: createBlockLayer({ host, drivers: allDrivers }), host }
}

function contents(bytes: number): Uint8Array {
  return new Uint8Array(bytes).map((_, at) => (Math.floor(at / 400000) % 3 === 0 ? 0 : 1 + ((at * 13) % 255)))
}

class Collector implements ByteSink {
  readonly chunks: Uint8Array[] = []

  async write(chunk: Uint8Array): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, 1))
    this.chunks.push(chunk.slice())
  }

  get bytes(): Uint8Array {
    return Buffer.concat(this.chunks)
  }
}

function bytesOf(host: MemoryHost, path: string): Uint8Array {
  return host.contents(path)?.bytes() ?? new Uint8Array(0)
}

describe('to a sink', () => {
  test.each([
    ['raw', undefined, 4096],
    ['qcow2', undefined, 4096],
    ['qcow2', 'cluster_size=4k', 4096],
    ['qcow2', 'cluster_size=2M,compat=0.10', 4096],
    ['qcow2', 'cluster_size=512,refcount_bits=64', 65536],
  ] as const)(
    'the same bytes as in a file: %s %s, from one block of data',
    async (format, options, sparseSize) => {
      const { layer, host } = setUp()
      // The memory host reports its pages as data, so that zeroes have to be looked for.
      host.put(
        '/source',
        contents(7 * MiB + 1536).map((byte) => byte || 1),
      )
      const data = bytesOf(host, '/source')
      data.fill(0, 2 * MiB, 3 * MiB - 4096)
      host.put('/source', data)
      const sources = [{ filename: '/source', format: 'raw' }]
      const sink = new Collector()
      const progress: number[] = []
      await convertToSink(layer, sink, {
        sources,
        format,
        options,
        sparseSize,
        progress: (done, total) => progress.push(done / total),
      })
      await convertImage(layer, { sources, target: '/file', format, options, sparseSize })
      expect(Buffer.compare(sink.bytes, bytesOf(host, '/file'))).toBe(0)
      expect(progress.at(-1)).toBe(1)
    },
  )

  test('a source whose map knows its zeroes is read once', async () => {
    let read = 0
    const host = new MemoryHost({
      codecs: createNodeHost().codecs,
      fault: (operation) => {
        if (operation.kind === 'read' && operation.path === '/source' && operation.bytes > 65536) {
          read += operation.bytes
        }
        return undefined
      },
    })
    const layer = createBlockLayer({ host, drivers: allDrivers })
    host.put('/raw', contents(6 * MiB))
    await convertImage(layer, {
      sources: [{ filename: '/raw', format: 'raw' }],
      target: '/source',
      format: 'qcow2',
    })
    read = 0
    const sink = new Collector()
    const { dataBytes } = await convertToSink(layer, sink, { sources: ['/source'], format: 'qcow2' })
    expect(read).toBeLessThanOrEqual(dataBytes)
    host.put('/streamed', sink.bytes)
    const image = await openImage(layer, '/streamed')
    const guest = new Uint8Array(6 * MiB)
    await image.read(0, guest.length, guest)
    await image.close()
    expect(Buffer.compare(guest, contents(6 * MiB))).toBe(0)
  })

  test('compressed images are spooled, and the spool is gone afterwards', async () => {
    const { layer, host } = setUp()
    host.put('/source', contents(3 * MiB))
    const sources = [{ filename: '/source', format: 'raw' }]
    const sink = new Collector()
    await convertToSink(layer, sink, { sources, format: 'qcow2', compress: true })
    expect(host.paths).toEqual(['/source'])
    host.put('/streamed', sink.bytes)
    await convertImage(layer, { sources: ['/streamed'], target: '/back' })
    expect(Buffer.compare(bytesOf(host, '/back'), contents(3 * MiB))).toBe(0)
  })

  test('a sink that fails, and an abort', async () => {
    const { layer, host } = setUp()
    host.put('/source', contents(9 * MiB))
    const sources = [{ filename: '/source', format: 'raw' }]
    const broken: ByteSink = {
      write: async () => {
        throw new Error('pipe is gone')
      },
    }
    await expect(convertToSink(layer, broken, { sources })).rejects.toThrow('pipe is gone')
    const controller = new AbortController()
    const stopping: ByteSink = { write: async () => controller.abort() }
    const problem = await convertToSink(layer, stopping, { sources, signal: controller.signal }).catch(
      (e) => e,
    )
    expect(isBlockError(problem) && problem.code).toBe('ECANCELED')
    expect(layer.nodes.size).toBe(0)
  })
})

async function* chunksOf(data: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < data.length; at += size) {
    yield data.subarray(at, at + size)
  }
}

describe('from a source', () => {
  test.each([
    ['raw', 1000],
    ['raw', 70000],
    ['qcow2', 65536],
    ['qcow2', 5 * MiB],
  ])('raw bytes to %s in chunks of %i', async (format, size) => {
    const { layer, host } = setUp()
    const data = contents(6 * MiB + 700)
    const result = await convertFromSource(layer, chunksOf(data, size), {
      sourceFormat: 'raw',
      target: '/target',
      format,
    })
    expect(result.size).toBe(6 * MiB + 1024)
    const image = await openImage(layer, { filename: '/target', format })
    const guest = new Uint8Array(image.length)
    await image.read(0, guest.length, guest)
    await image.close()
    expect(guest.length).toBe(result.size)
    expect(Buffer.compare(guest.subarray(0, data.length), data)).toBe(0)
    expect(host.paths).toEqual(['/target'])
  })

  test('an image of another format, compressed on the way', async () => {
    const { layer, host } = setUp()
    host.put('/raw', contents(3 * MiB))
    await convertImage(layer, {
      sources: [{ filename: '/raw', format: 'raw' }],
      target: '/image',
      format: 'qcow2',
    })
    const image = bytesOf(host, '/image')
    await convertFromSource(layer, chunksOf(image, 100000), {
      target: '/target',
      format: 'qcow2',
      compress: true,
    })
    await convertImage(layer, { sources: ['/target'], target: '/back' })
    expect(Buffer.compare(bytesOf(host, '/back'), contents(3 * MiB))).toBe(0)
    expect(host.paths.sort()).toEqual(['/back', '/image', '/raw', '/target'])
  })

  test('an empty stream makes an empty image', async () => {
    const { layer } = setUp()
    const result = await convertFromSource(layer, chunksOf(new Uint8Array(0), 1), {
      target: '/target',
      format: 'qcow2',
    })
    expect(result.size).toBe(0)
  })

  test('a stream that fails leaves nothing', async () => {
    const { layer, host } = setUp()
    async function* failing(): AsyncGenerator<Uint8Array> {
      yield new Uint8Array(3 * MiB).fill(1)
      throw new Error('stream is gone')
    }
    await expect(
      convertFromSource(layer, failing(), { sourceFormat: 'raw', target: '/target', format: 'qcow2' }),
    ).rejects.toThrow('error while reading from the input stream')
    expect(host.paths).toEqual([])
    expect(layer.nodes.size).toBe(0)
  })
})
