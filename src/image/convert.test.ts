import { describe, expect, test } from 'vitest'
import { allDrivers } from '../all-drivers.js'
import { isBlockError } from '../errors/index.js'
import { type BlockLayer, createBlockLayer } from '../graph/index.js'
import { createNodeHost } from '../platform/node/index.js'
import { MemoryHost, type MemoryHostOptions, type MemoryOperation } from '../testing/index.js'
import { type ConvertOptions, convertImage } from './convert.js'
import { createImage } from './create.js'
import { openImage } from './open.js'

const MiB = 1048576

function setUp(options: MemoryHostOptions = {}): { layer: BlockLayer; host: MemoryHost } {
  const host = new MemoryHost({ codecs: createNodeHost().codecs, ...options })
  return { layer: createBlockLayer({ host, drivers: allDrivers }), host }
}

/** Bytes with data, short zeroes and long zeroes. */
function contents(bytes: number, seed = 1): Uint8Array {
  const data = new Uint8Array(bytes)
  for (let at = 0; at < bytes; at++) {
    const block = Math.floor(at / 3000)
    data[at] = (block * seed) % 5 < 2 ? 0 : 1 + ((at * seed + block) % 255)
  }
  return data
}

/** All bytes of a file of the host. */
function bytesOf(host: MemoryHost, path: string): Uint8Array {
  const file = host.contents(path)
  if (file === undefined) {
    throw new Error(`${path} does not exist`)
  }
  return file.bytes()
}

function raw(filename: string) {
  return { filename, format: 'raw' }
}

async function failure(run: Promise<unknown>): Promise<{ code: string; message: string }> {
  const error = await run.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  if (!isBlockError(error)) {
    throw new Error(`expected a BlockError, got ${String(error)}`)
  }
  return { code: error.code, message: error.message }
}

async function guestBytes(layer: BlockLayer, filename: string, format: string): Promise<Uint8Array> {
  const image = await openImage(layer, { filename, format })
  const buffer = new Uint8Array(image.length)
  await image.read(0, buffer.length, buffer)
  await image.close()
  return buffer
}

describe('contents', () => {
  test.each<[string, Partial<ConvertOptions>]>([
    ['raw', {}],
    ['qcow2', {}],
    ['qcow2', { compress: true }],
    ['qcow2', { sparseSize: 0 }],
    ['qcow2', { outOfOrder: true, parallel: 3 }],
    ['raw', { copyOffload: true }],
    ['qcow2', { copyOffload: true }],
    ['qcow2', { parallel: 1, options: { cluster_size: 4096 } }],
  ])('several sources in a row to %s %j', async (format, options) => {
    const { layer, host } = setUp({ delay: (operation) => (operation.kind === 'read' ? 3 : 1) })
    const parts = [contents(5 * MiB + 512, 3), contents(512, 2), contents(3 * MiB + 1024, 7)]
    for (const [index, part] of parts.entries()) {
      host.put(`/part${index}`, part)
    }
    const progress: number[] = []
    const result = await convertImage(layer, {
      sources: parts.map((_, index) => raw(`/part${index}`)),
      target: '/target',
      format,
      ...options,
      progress: (done, total) => progress.push(done / total),
    })
    const whole = Buffer.concat(parts)
    expect(result.size).toBe(whole.length)
    expect(Buffer.compare(await guestBytes(layer, '/target', format), whole)).toBe(0)
    expect(progress.at(-1)).toBe(1)
    expect(progress).toEqual([...progress].sort((a, b) => a - b))
    expect(host.paths.filter((path) => path.endsWith('.part'))).toEqual([])
  })

  test('a target on a backing file keeps what the source does not hold', async () => {
    const { layer, host } = setUp()
    host.put('/base', contents(4 * MiB))
    await createImage(layer, {
      filename: '/top',
      format: 'qcow2',
      backing: { file: '/base', format: 'raw' },
      size: 5 * MiB,
    })
    const top = await openImage(layer, '/top', { write: true })
    await top.write(MiB, 70000, contents(70000, 9))
    await top.close()
    const backing = { file: '/base', format: 'raw' }
    await convertImage(layer, { sources: ['/top'], target: '/copy', format: 'qcow2', backing })
    expect(
      Buffer.compare(await guestBytes(layer, '/copy', 'qcow2'), await guestBytes(layer, '/top', 'qcow2')),
    ).toBe(0)
    expect(host.contents('/copy')?.size).toBeLessThan(MiB)
  })

  test('an existing target is written without being created, zeroes included', async () => {
    const { layer, host } = setUp()
    const data = contents(2 * MiB)
    host.put('/source', data)
    host.put('/target', new Uint8Array(3 * MiB).fill(0xee))
    await convertImage(layer, { sources: [raw('/source')], target: raw('/target'), skipCreate: true })
    const after = bytesOf(host, '/target')
    expect(Buffer.compare(after.subarray(0, data.length), data)).toBe(0)
    expect(after.subarray(data.length).every((byte) => byte === 0xee)).toBe(true)
    host.put('/zeroed', new Uint8Array(3 * MiB))
    await convertImage(layer, {
      sources: [raw('/source')],
      target: raw('/zeroed'),
      skipCreate: true,
      targetIsZero: true,
    })
    expect(Buffer.compare(bytesOf(host, '/zeroed').subarray(0, data.length), data)).toBe(0)
  })
})

describe('failures', () => {
  const failing =
    (path: RegExp, kind: MemoryOperation['kind'], from: number) => (operation: MemoryOperation) =>
      path.test(operation.path) &&
      operation.kind === kind &&
      'offset' in operation &&
      operation.offset >= from
        ? ('EIO' as const)
        : undefined

  test.each(['raw', 'qcow2'])('a read error leaves no %s target', async (format) => {
    const { layer, host } = setUp({ fault: failing(/source/, 'read', 4 * MiB), delay: () => 2 })
    host.put('/source', contents(9 * MiB, 2).fill(5))
    const problem = await failure(
      convertImage(layer, { sources: [raw('/source')], target: '/target', format }),
    )
    expect(problem).toEqual({
      code: 'EIO',
      message: `error while reading at byte ${4 * MiB}: Input/output error`,
    })
    expect(host.paths).toEqual(['/source'])
  })

  test.each(['raw', 'qcow2'])('a write error leaves no %s target', async (format) => {
    const { layer, host } = setUp({ fault: failing(/target/, 'write', 5 * MiB), delay: () => 2 })
    host.put('/source', contents(9 * MiB, 2).fill(5))
    const problem = await failure(
      convertImage(layer, { sources: [raw('/source')], target: '/target', format }),
    )
    expect(problem.code).toBe('EIO')
    expect(problem.message).toMatch(/^error while writing at byte \d+: Input\/output error$/)
    expect(host.paths).toEqual(['/source'])
  })

  test('no space left', async () => {
    const { layer, host } = setUp({ capacity: 6 * MiB })
    host.put('/source', new Uint8Array(9 * MiB).fill(5))
    const problem = await failure(
      convertImage(layer, { sources: [raw('/source')], target: '/target', format: 'qcow2' }),
    )
    expect(problem.code).toBe('ENOSPC')
    expect(host.paths).toEqual(['/source'])
  })

  test('a failure to create names the target, not the place where it was made', async () => {
    const { layer, host } = setUp({ fault: failing(/target/, 'write', 0) })
    host.put('/source', contents(MiB))
    const problem = await failure(
      convertImage(layer, { sources: [raw('/source')], target: '/target', format: 'qcow2' }),
    )
    expect(problem.message).toContain('/target')
    expect(problem.message).not.toContain('.part')
    expect(host.paths).toEqual(['/source'])
  })

  test('an existing target stays as it is when sources or options are wrong', async () => {
    const { layer, host } = setUp()
    host.put('/source', contents(MiB))
    host.put('/target', new Uint8Array([1, 2, 3]))
    for (const wrong of [
      { sources: ['/missing'] },
      { options: 'bogus=1' },
      { format: 'nope' },
      { cache: 'sometimes' },
      { sparseSize: 7 },
      { parallel: 0 },
      { snapshot: 'x' },
      { format: 'raw', compress: true },
    ] as Partial<ConvertOptions>[]) {
      const options = { sources: [raw('/source')], target: '/target', format: 'qcow2', ...wrong }
      await failure(convertImage(layer, options))
      expect(bytesOf(host, '/target')).toEqual(new Uint8Array([1, 2, 3]))
    }
  })

  test('an existing target is overwritten in place, compressed too', async () => {
    const { layer, host } = setUp()
    host.put('/source', contents(MiB))
    const file = host.put('/target', new Uint8Array([1, 2, 3]))
    const sources = [raw('/source')]
    await convertImage(layer, { sources, target: '/target', format: 'qcow2', compress: true })
    expect(host.contents('/target')).toBe(file)
    expect(Buffer.compare(await guestBytes(layer, '/target', 'qcow2'), contents(MiB))).toBe(0)
  })

  test('a file that appears meanwhile is not overwritten', async () => {
    const { layer, host } = setUp()
    host.put('/source', contents(5 * MiB))
    const problem = await failure(
      convertImage(layer, {
        sources: [raw('/source')],
        target: '/target',
        progress: () => host.contents('/target') ?? host.put('/target', new Uint8Array([9])),
      }),
    )
    expect(problem).toEqual({ code: 'EEXIST', message: "Could not create '/target': File exists" })
    expect(bytesOf(host, '/target')).toEqual(new Uint8Array([9]))
    expect(host.paths.sort()).toEqual(['/source', '/target'])
  })

  test('salvaging turns what cannot be read into zeroes', async () => {
    const bad = [3 * MiB + 512, 3 * MiB + 2048]
    const warnings: string[] = []
    const { layer, host } = setUp({
      fault: (operation) =>
        operation.kind === 'read' &&
        operation.path === '/source' &&
        bad.some((at) => operation.offset < at + 512 && at < operation.offset + operation.bytes)
          ? 'EIO'
          : undefined,
    })
    const data = new Uint8Array(5 * MiB).fill(7)
    host.put('/source', data)
    await convertImage(layer, {
      sources: [raw('/source')],
      target: '/target',
      salvage: true,
      warn: (text) => warnings.push(text),
    })
    for (const at of bad) {
      data.fill(0, at, at + 512)
    }
    expect(Buffer.compare(bytesOf(host, '/target'), data)).toBe(0)
    expect(warnings).toEqual(bad.map((at) => `error while reading offset ${at}: Input/output error`))
  })

  test.each(['before', 'during'])('aborted %s', async (when) => {
    const { layer, host } = setUp({ delay: () => 1 })
    host.put('/source', contents(9 * MiB, 2).fill(5))
    const controller = new AbortController()
    if (when === 'before') {
      controller.abort()
    }
    const problem = await failure(
      convertImage(layer, {
        sources: [raw('/source')],
        target: '/target',
        format: 'qcow2',
        signal: controller.signal,
        progress: (done) => {
          if (done > 3 * MiB) {
            controller.abort()
          }
        },
      }),
    )
    expect(problem).toEqual({ code: 'ECANCELED', message: 'Operation canceled' })
    expect(host.paths).toEqual(['/source'])
    expect(layer.nodes.size).toBe(0)
  })
})

test('a rate limit is kept', async () => {
  const { layer, host } = setUp()
  host.put('/source', new Uint8Array(8 * MiB).fill(1))
  const start = performance.now()
  await convertImage(layer, { sources: [raw('/source')], target: '/target', rateLimit: 20 * MiB })
  const seconds = (performance.now() - start) / 1000
  // The first request goes at once; the other three wait for it and each other.
  expect(seconds).toBeGreaterThan(0.28)
  expect(seconds).toBeLessThan(3)
})
