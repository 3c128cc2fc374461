import { deflateRawSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { writeU32BE, writeU64BE } from '../../../bytes/index.js'
import { addSecret } from '../../../formatkit/crypto/index.js'
import { type BlockLayer, type BlockNode, createBlockLayer } from '../../../graph/index.js'
import { ReqFlags } from '../../../io/index.js'
import { createNodeHost } from '../../../platform/node/index.js'
import { MemoryHost } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { raw } from '../raw/index.js'
import { qcow } from './index.js'

const { codecs, ciphers } = createNodeHost()

function setup(): { host: MemoryHost; layer: BlockLayer } {
  const host = new MemoryHost({ codecs, ciphers })
  return { host, layer: createBlockLayer({ host, drivers: [qcow, raw, file] }) }
}

interface Golden {
  readonly clusterBits?: number
  readonly l2Bits?: number
  readonly size?: number
  readonly crypt?: number
  readonly backing?: string
  readonly l1?: readonly number[]
  readonly length: number
}

/** An image put together by hand: header, name at 100, first-level table at 1024. */
function image(golden: Golden): Uint8Array {
  const { clusterBits = 9, l2Bits = 6, size = 65536, crypt = 0, backing = '', l1 = [] } = golden
  const bytes = new Uint8Array(golden.length)
  writeU32BE(bytes, 0, 0x514649fb)
  writeU32BE(bytes, 4, 1)
  writeU64BE(bytes, 8, backing === '' ? 0 : 100)
  writeU32BE(bytes, 16, backing.length)
  writeU32BE(bytes, 20, 0x5eed)
  writeU64BE(bytes, 24, size)
  bytes[32] = clusterBits
  bytes[33] = l2Bits
  writeU32BE(bytes, 36, crypt)
  writeU64BE(bytes, 40, 1024)
  bytes.set(new TextEncoder().encode(backing), 100)
  for (const [index, offset] of l1.entries()) {
    writeU64BE(bytes, 1024 + index * 8, offset)
  }
  return bytes
}

async function read(node: BlockNode, offset: number, bytes: number): Promise<Uint8Array> {
  const data = new Uint8Array(bytes)
  await node.read(offset, bytes, data, 0, 0)
  return data
}

test('golden: an image made byte by byte, over a backing file', async () => {
  const { host, layer } = setup()
  const bytes = image({ backing: 'base', l1: [2048, 0], length: 8192 })
  // Cluster 1 stands at 4096, cluster 2 compressed at byte 5001, the others nowhere.
  writeU64BE(bytes, 2048 + 8, 4096)
  bytes.fill(0x11, 4096, 4608)
  const packed = deflateRawSync(new Uint8Array(512).fill(0x22), { windowBits: 12 })
  bytes.set(packed, 5001)
  writeU32BE(bytes, 2048 + 16, 0x8000_0000 + packed.length * 2 ** 22)
  writeU32BE(bytes, 2048 + 20, 5001)
  host.put('/image', bytes)
  host.put('/base', new Uint8Array(65536).fill(0x33))
  const node = await layer.open('/image', {})
  expect(node.driver?.name).toBe('qcow')
  expect(node.backingFile).toBe('base')
  const data = await read(node, 0, 65536)
  expect([0, 511, 512, 1023, 1024, 1535, 1536, 65535].map((at) => data[at])).toEqual([
    0x33, 0x33, 0x11, 0x11, 0x22, 0x22, 0x33, 0x33,
  ])
  await layer.unref(node)
})

test('golden: an encrypted image', async () => {
  const { host, layer } = setup()
  const bytes = image({ crypt: 1, l1: [2048], length: 8192 })
  writeU64BE(bytes, 2048, 4096)
  // AES-128-CBC of 512 zeroes under the key `abc` and zeroes, vector 0.
  const key = new Uint8Array(16)
  key.set(new TextEncoder().encode('abc'))
  const block = new Uint8Array(16)
  for (let at = 4096; at < 4608; at += 16) {
    ciphers?.blockCipher('aes', key)?.encrypt(block, 0, 16)
    bytes.set(block, at)
  }
  host.put('/image', bytes)
  addSecret(layer, { id: 's', format: 'raw', data: 'abc' })
  const node = await layer.open('/image', { driver: 'qcow', 'encrypt.key-secret': 's' })
  expect((await read(node, 0, 1024)).every((byte) => byte === 0)).toBe(true)
  await layer.unref(node)
})

test('a cluster of 4 KiB over a backing file keeps what is around a write', async () => {
  const { host, layer } = setup()
  host.put('/image', image({ clusterBits: 12, l2Bits: 9, backing: 'base', l1: [0], length: 2048 }))
  host.put('/base', new Uint8Array(65536).fill(0x33))
  const node = await layer.open('/image', {}, { write: true })
  await node.write(512, 512, new Uint8Array(512).fill(0x44), 0, 0)
  const data = await read(node, 0, 8192)
  expect([0, 511, 512, 1023, 1024, 4096].map((at) => data[at])).toEqual([0x33, 0x33, 0x44, 0x44, 0x33, 0x33])
  await layer.unref(node)
})

test('tables and clusters where they cannot be are not written to', async () => {
  for (const [l1, entry] of [
    [[8], 0],
    [[1024], 0],
    [[2 ** 40], 0],
    [[2 ** 53 - 1], 0],
    [[2048], 4097],
    [[2048], 512],
    [[2048], 2 ** 53 - 512],
  ] as const) {
    const { host, layer } = setup()
    const bytes = image({ l1, length: 8192 })
    writeU64BE(bytes, 2048, entry)
    host.put('/image', bytes)
    const before = bytes.slice()
    const node = await layer.open('/image', {}, { write: true })
    const write = async () => node.write(0, 512, new Uint8Array(512).fill(1), 0, 0)
    await expect(write(), JSON.stringify([l1, entry])).rejects.toMatchObject({ code: 'EIO' })
    await layer.unref(node)
    expect(Buffer.compare(host.contents('/image')?.bytes() ?? new Uint8Array(0), before)).toBe(0)
  }
})

test('compressed writes are whole clusters, and the end of the disk', async () => {
  const { host, layer } = setup()
  host.put('/image', image({ clusterBits: 12, l2Bits: 9, size: 4096 + 512, l1: [0], length: 2048 }))
  const node = await layer.open('/image', {}, { write: true })
  const write = async (offset: number, bytes: number) =>
    node.write(offset, bytes, new Uint8Array(bytes).fill(7), 0, ReqFlags.writeCompressed)
  await expect(write(512, 4096)).rejects.toMatchObject({ code: 'EINVAL' })
  await expect(write(0, 512)).rejects.toMatchObject({ code: 'EINVAL' })
  await write(0, 4096)
  await write(4096, 512)
  expect((await read(node, 0, 4608)).every((byte) => byte === 7)).toBe(true)
  await layer.unref(node)
  expect(host.contents('/image')?.bytes().length).toBeLessThan(9000)
})
