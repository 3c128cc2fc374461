import { describe, expect, test } from 'vitest'
import {
  Backend,
  type BlockDriver,
  type BlockLayer,
  createBlockLayer,
  truncateNode,
} from '../../../graph/index.js'
import { BlockStatus, ReqFlags } from '../../../io/index.js'
import type { OptionTree } from '../../../options/index.js'
import { MemoryHost, type MemoryOperation } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { raw } from './index.js'

/** A format that claims images beginning with "X". */
const other: BlockDriver = {
  name: 'other',
  kind: 'format',
  options: {},
  probe: (head) => (head[0] === 0x58 ? 100 : 0),
  load: () => {
    throw new Error('not to be opened')
  },
}

const content = (bytes: number): Uint8Array => Uint8Array.from({ length: bytes }, (_, i) => i % 253)

function setup(bytes: number): {
  host: MemoryHost
  layer: BlockLayer
  log: MemoryOperation[]
  now: () => Uint8Array
} {
  const log: MemoryOperation[] = []
  const host = new MemoryHost({
    log: (operation) => {
      log.push(operation)
    },
  })
  const contents = host.put('/img', content(bytes))
  return {
    host,
    log,
    layer: createBlockLayer({ host, drivers: [raw, other, file] }),
    now: () => contents.bytes(),
  }
}

function window(offset: number, size?: number): OptionTree {
  return {
    driver: 'raw',
    offset,
    ...(size === undefined ? {} : { size }),
    file: { driver: 'file', filename: '/img' },
  }
}

describe('a whole file', () => {
  test('reads and writes go straight to it', async () => {
    const { layer, now } = setup(4096)
    const backend = await Backend.open(layer, '/img', { driver: 'raw' }, { write: true })
    const buffer = new Uint8Array(100)
    expect(backend.read(50, 100, buffer)).toBeUndefined()
    expect(buffer).toEqual(content(4096).subarray(50, 150))
    expect(backend.write(1, 3, Uint8Array.of(9, 8, 7))).toBeUndefined()
    expect([...now().subarray(0, 5)]).toEqual([0, 9, 8, 7, 4])
    expect(backend.node.filename).toBe('/img')
    expect(backend.node.state?.hasZeroInit).toBe(true)
    expect(backend.node.state?.info?.()).toEqual({})
    await backend.close()
  })

  test('status is what the file says', async () => {
    const { layer, host } = setup(0)
    const contents = host.put('/img')
    contents.truncate(1 << 20)
    contents.write(131072, content(65536))
    const backend = await Backend.open(layer, '/img', { driver: 'raw' })
    const status = new BlockStatus()
    await backend.node.status(0, 1 << 20, 'zero', status)
    expect([status.bytes, status.zero, status.node]).toEqual([131072, true, backend.node.file])
    await backend.node.status(140000, 1 << 20, 'zero', status)
    expect([status.bytes, status.data, status.offset]).toEqual([196608 - 140000, true, 140000])
    await backend.close()
  })

  test('status follows zeroes and discards', async () => {
    const { layer, host } = setup(0)
    host.put('/img', new Uint8Array(262144).fill(1))
    const options = { driver: 'raw', discard: 'unmap' }
    const backend = await Backend.open(layer, '/img', options, { write: true, unmap: true })
    const status = new BlockStatus()
    const zeroAt = async (offset: number): Promise<boolean> => {
      await backend.node.status(offset, 65536, 'zero', status)
      return status.zero
    }
    expect([await zeroAt(0), await zeroAt(65536)]).toEqual([false, false])
    await backend.writeZeroes(65536, 65536, ReqFlags.mayUnmap)
    expect([await zeroAt(0), await zeroAt(65536), await zeroAt(131072)]).toEqual([false, true, false])
    await backend.discard(131072, 65536)
    expect([await zeroAt(131072), await zeroAt(196608)]).toEqual([true, false])
    await backend.close()
  })

  test('grows and shrinks with its file', async () => {
    const { layer, now } = setup(4096)
    const backend = await Backend.open(layer, '/img', { driver: 'raw' }, { write: true, resize: true })
    const how = { exact: true, preallocation: 'off', zero: false } as const
    await truncateNode(backend.node, 8192, how)
    expect([backend.length, now().length]).toEqual([8192, 8192])
    await truncateNode(backend.node, 512, how)
    expect([backend.length, now().length]).toEqual([512, 512])
    await backend.close()
  })
})

describe('a window', () => {
  test('moves every request by its offset', async () => {
    const { layer, now } = setup(8192)
    const options = { ...window(1024, 2048), discard: 'unmap' }
    const backend = await Backend.open(layer, undefined, options, { write: true, unmap: true })
    expect(backend.length).toBe(2048)
    const buffer = new Uint8Array(512)
    await backend.read(512, 512, buffer)
    expect(buffer).toEqual(content(8192).subarray(1536, 2048))
    await backend.write(0, 2, Uint8Array.of(200, 201))
    await backend.writeZeroes(512, 512)
    await backend.discard(1024, 512)
    const expected = content(8192)
    expected.set([200, 201], 1024)
    expected.fill(0, 1536, 2560)
    expect(now()).toEqual(expected)
    await backend.close()
  })

  test('of fixed size lets nothing past its end', async () => {
    const { layer, now } = setup(8192)
    const backend = await Backend.open(layer, undefined, window(1024, 2048), { write: true, resize: true })
    backend.allowBeyondEnd = true
    const past = async (): Promise<void> => await backend.write(2048, 512, new Uint8Array(512))
    await expect(past()).rejects.toMatchObject({ code: 'ENOSPC' })
    await expect(backend.writeZeroes(1536, 1024)).rejects.toMatchObject({ code: 'ENOSPC' })
    const how = { exact: true, preallocation: 'off', zero: false } as const
    await expect(truncateNode(backend.node, 4096, how)).rejects.toThrow('Cannot resize fixed-size raw disks')
    expect(now()).toEqual(content(8192))
    await backend.close()
  })

  test('without a size grows its file', async () => {
    const { layer, now } = setup(8192)
    const backend = await Backend.open(layer, undefined, window(1024), { write: true, resize: true })
    expect(backend.length).toBe(7168)
    await truncateNode(backend.node, 8192, { exact: true, preallocation: 'off', zero: false })
    expect([backend.length, now().length]).toEqual([8192, 9216])
    await backend.close()
  })

  test('shows in the name', async () => {
    const { layer } = setup(8192)
    const node = await layer.open(undefined, window(1024, 2048))
    expect(JSON.parse(node.filename.replace(/^json:/, ''))).toEqual({
      driver: 'raw',
      offset: 1024,
      size: 2048,
      file: { driver: 'file', filename: '/img' },
    })
    await layer.unref(node)
  })
})

describe('a guessed format', () => {
  const X = 0x58

  test('the first block may not become another format', async () => {
    const { layer, now } = setup(4096)
    const backend = await Backend.open(layer, '/img', {}, { write: true })
    expect(backend.node.limits.requestAlignment).toBe(512)
    for (const bytes of [512, 1024, 1]) {
      const data = new Uint8Array(bytes).fill(X)
      const attempt = Promise.resolve().then(() => backend.write(0, bytes, data))
      await expect(attempt).rejects.toMatchObject({ code: 'EPERM' })
    }
    expect(now()).toEqual(content(4096))
    await backend.write(512, 512, new Uint8Array(512).fill(X))
    expect(now()[512]).toBe(X)
    await backend.close()
  })

  test('other data may go there, and small writes keep the rest of the block', async () => {
    const { layer, now } = setup(4096)
    const backend = await Backend.open(layer, '/img', {}, { write: true })
    await backend.write(0, 1024, new Uint8Array(1024).fill(1))
    await backend.write(5, 1, Uint8Array.of(77))
    const expected = content(4096)
    expected.fill(1, 0, 1024)
    expected[5] = 77
    expect(now()).toEqual(expected)
    await backend.close()
  })

  test('what was checked is what is written, even if the buffer changes meanwhile', async () => {
    const host = new MemoryHost({ delay: () => 3 })
    const contents = host.put('/img', content(4096))
    const layer = createBlockLayer({ host, drivers: [raw, other, file] })
    const backend = await Backend.open(layer, '/img', {}, { write: true })
    const data = new Uint8Array(512)
    const wait = backend.write(0, 512, data)
    data.fill(X)
    await wait
    expect(contents.bytes()[0]).toBe(0)
    await backend.close()
  })

  test('is not guarded when the format was given', async () => {
    const { layer, now } = setup(4096)
    const backend = await Backend.open(layer, '/img', { driver: 'raw' }, { write: true })
    await backend.write(0, 1, Uint8Array.of(X))
    expect(now()[0]).toBe(X)
    await backend.close()
  })

  test('warns only when opened for writing', async () => {
    const { layer, host } = setup(4096)
    await (await Backend.open(layer, '/img')).close()
    expect(host.warnings).toEqual([])
    await (await Backend.open(layer, '/img', {}, { write: true })).close()
    expect(host.warnings).toEqual([
      "WARNING: Image format was not specified for '/img' and probing guessed raw.",
      '         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.',
      "         Specify the 'raw' format explicitly to remove the restrictions.",
    ])
  })
})

test('zero flags pass through as far as the file understands them', async () => {
  const { layer } = setup(4096)
  const backend = await Backend.open(layer, '/img', { driver: 'raw' }, { write: true })
  const { node } = backend
  expect(node.supportedZeroFlags).toBe(ReqFlags.writeUnchanged | ReqFlags.mayUnmap | ReqFlags.noFallback)
  await backend.close()
})

test('measure: every byte counts', async () => {
  const module = await raw.load()
  const { layer } = setup(4096)
  const source = await layer.open('/img', { driver: 'raw' })
  expect(await module.measure?.({ layer, options: { size: 1000 } })).toEqual({
    required: 1024,
    fullyAllocated: 1024,
  })
  expect(await module.measure?.({ layer, options: {}, source })).toEqual({
    required: 4096,
    fullyAllocated: 4096,
  })
  await layer.unref(source)
})
