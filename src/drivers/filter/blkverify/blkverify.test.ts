import { expect, test } from 'vitest'
import { Backend, type BlockLayer, createBlockLayer } from '../../../graph/index.js'
import { MemoryHost } from '../../../testing/index.js'
import { raw } from '../../format/raw/index.js'
import { file } from '../../protocol/file/index.js'
import { blkverify } from './index.js'

const content = (bytes: number): Uint8Array => Uint8Array.from({ length: bytes }, (_, i) => i % 253)

function setup(): { host: MemoryHost; layer: BlockLayer } {
  const host = new MemoryHost()
  host.put('/raw', content(4096))
  host.put('/img', content(4096))
  return { host, layer: createBlockLayer({ host, drivers: [blkverify, raw, file] }) }
}

const open = (layer: BlockLayer): Promise<Backend> =>
  Backend.open(layer, 'blkverify:/raw:/img', { driver: 'raw' }, { write: true })

test('does everything on both', async () => {
  const { layer, host } = setup()
  const image = await open(layer)
  expect(image.node.filename).toBe('blkverify:/raw:/img')
  await image.write(512, 3, Uint8Array.of(1, 2, 3))
  await image.writeZeroes(1024, 512)
  const buffer = new Uint8Array(2048)
  await image.read(0, 2048, buffer)
  const expected = content(4096)
  expected.set([1, 2, 3], 512)
  expected.fill(0, 1024, 1536)
  expect(buffer).toEqual(expected.subarray(0, 2048))
  expect(host.contents('/raw')?.bytes()).toEqual(expected)
  expect(host.contents('/img')?.bytes()).toEqual(expected)
  await image.close()
})

test('a difference fails the request, or ends the program', async () => {
  const { layer, host } = setup()
  const image = await open(layer)
  host.contents('/img')?.write(1000, Uint8Array.of(255))
  const buffer = new Uint8Array(1024)
  await image.read(0, 512, buffer)
  const text = 'blkverify: read offset=512 bytes=512 contents mismatch at offset 1000'
  await expect(image.read(512, 512, buffer)).rejects.toMatchObject({ code: 'EIO', message: text })
  const lines: string[] = []
  Object.assign(host, { abort: (line: string) => lines.push(line) })
  await image.read(512, 512, buffer)?.catch(() => undefined)
  expect(lines).toEqual([text])
  await image.close()
})

test('so does a request that fails on one side only', async () => {
  const { layer, host } = setup()
  const image = await open(layer)
  Object.assign(host.options, {
    fault: (operation: { path: string; kind: string }) =>
      operation.path === '/img' && operation.kind === 'read' ? 'ENOSPC' : undefined,
  })
  await expect(image.read(0, 512, new Uint8Array(512))).rejects.toThrow(
    'blkverify: read offset=0 bytes=512 return value mismatch -28 != 0',
  )
  await image.close()
})

test('names', async () => {
  const { layer } = setup()
  await expect(layer.open('blkverify:/raw', { driver: 'raw' })).rejects.toThrow(
    'blkverify requires raw copy and original image path',
  )
  await expect(
    layer.open(undefined, { driver: 'blkverify', raw: { driver: 'file', filename: '/raw' } }),
  ).rejects.toThrow('A block device must be specified for "test"')
})
