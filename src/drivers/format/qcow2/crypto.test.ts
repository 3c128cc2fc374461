import { describe, expect, test } from 'vitest'
import { addSecret } from '../../../formatkit/crypto/index.js'
import { Backend, createBlockLayer } from '../../../graph/index.js'
import { createImage } from '../../../image/index.js'
import type { OptionTree } from '../../../options/index.js'
import { nodeCiphers } from '../../../platform/node/ciphers.js'
import { MemoryHost } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { raw } from '../raw/index.js'
import { qcow2 } from './index.js'

async function setup(options: string) {
  const log: Uint8Array[] = []
  const host = new MemoryHost({
    ciphers: nodeCiphers,
    log: (operation) => {
      if (operation.kind === 'write') {
        log.push(operation.data.slice())
      }
    },
  })
  const layer = createBlockLayer({ host, drivers: [raw, qcow2, file] })
  addSecret(layer, { id: 'key', format: 'raw', data: 'swordfish' })
  addSecret(layer, { id: 'wrong', format: 'raw', data: 'sword' })
  await createImage(layer, {
    filename: '/a',
    format: 'qcow2',
    size: 1 << 20,
    options: `encrypt.key-secret=key,cluster_size=4k,${options}`,
  })
  const open = (more: OptionTree = {}, flags = {}) =>
    Backend.open(layer, '/a', { driver: 'qcow2', ...more }, { write: true, ...flags })
  return { host, layer, log, open }
}

const kinds = ['encrypt.format=aes', 'encrypt.format=luks,encrypt.iter-time=1']

describe.each(kinds)('%s', (options) => {
  test('data goes out enciphered whatever the request, and comes back', async () => {
    const { layer, log, open } = await setup(options)
    const image = await open({ 'encrypt.key-secret': 'key' })
    const expected = new Uint8Array(1 << 20)
    const marker = new TextEncoder().encode('the quick brown fox jumps over the lazy dog')
    let state = 7
    const random = (below: number) => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0
      return (state >>> 8) % below
    }
    log.length = 0
    for (let i = 0; i < 60; i++) {
      const bytes = 1 + random(i % 3 === 0 ? 40000 : 900)
      const offset = random((1 << 20) - bytes)
      const data = Uint8Array.from({ length: bytes }, (_, at) => marker[at % marker.length] as number)
      const before = data.slice()
      await image.write(offset, bytes, data)
      expect(Buffer.compare(data, before)).toBe(0)
      expected.set(data, offset)
      if (i % 7 === 0) {
        await image.writeZeroes(offset + 10, Math.min(bytes, 5000))
        expected.fill(0, offset + 10, offset + 10 + Math.min(bytes, 5000))
      }
    }
    await image.flush()
    const back = new Uint8Array(1 << 20)
    await image.read(0, back.length, back)
    expect(Buffer.compare(back, expected)).toBe(0)
    expect(log.some((data) => Buffer.from(data).includes(Buffer.from(marker.subarray(0, 12))))).toBe(false)
    await image.close()
    await layer.closeAll()
  })

  test('without I/O no key is needed, and none means no data', async () => {
    const { layer, open } = await setup(options)
    const image = await open({}, { noIo: true })
    const { state } = image.node
    expect([state?.key?.encrypted, state?.key?.hasKey]).toEqual([true, false])
    expect(image.node.limits.requestAlignment).toBe(512)
    await state?.key?.setKey?.(new TextEncoder().encode('swordfish'))
    expect(state?.key?.hasKey).toBe(true)
    await image.close()
    await layer.closeAll()
  })

  test('a wrong key', async () => {
    const { layer, open } = await setup(options)
    const writer = await open({ 'encrypt.key-secret': 'key' })
    await writer.write(0, 512, new Uint8Array(512).fill(9))
    await writer.close()
    if (options.includes('luks')) {
      await expect(open({ 'encrypt.key-secret': 'wrong' })).rejects.toThrow('Invalid password')
    } else {
      // The legacy method cannot tell: it reads noise.
      const reader = await open({ 'encrypt.key-secret': 'wrong' })
      const sector = new Uint8Array(512)
      await reader.read(0, 512, sector)
      expect(sector.filter((byte) => byte === 9).length).toBeLessThan(50)
      await reader.close()
    }
    await layer.closeAll()
  })
})
