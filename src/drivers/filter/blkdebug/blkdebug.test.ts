import { describe, expect, test } from 'vitest'
import { Backend, type BlockLayer, createBlockLayer } from '../../../graph/index.js'
import { BlockStatus, ReqFlags } from '../../../io/index.js'
import type { OptionTree } from '../../../options/index.js'
import { MemoryHost, type MemoryOperation } from '../../../testing/index.js'
import { raw } from '../../format/raw/index.js'
import { file } from '../../protocol/file/index.js'
import { blkdebug } from './index.js'

const content = (bytes: number): Uint8Array => Uint8Array.from({ length: bytes }, (_, i) => i % 253)

function setup(bytes = 65536): { host: MemoryHost; layer: BlockLayer; log: MemoryOperation[] } {
  const log: MemoryOperation[] = []
  const host = new MemoryHost({ log: (operation) => log.push(operation) })
  host.put('/img', content(bytes))
  return { host, log, layer: createBlockLayer({ host, drivers: [blkdebug, raw, file] }) }
}

const over = (more: OptionTree): OptionTree => ({
  driver: 'blkdebug',
  image: { driver: 'file', filename: '/img' },
  ...more,
})

async function open(layer: BlockLayer, more: OptionTree, format = false): Promise<Backend> {
  const options = format ? { driver: 'raw', file: over(more) } : over(more)
  return await Backend.open(layer, undefined, options, { write: true, resize: true, unmap: true })
}

async function codeOf(run: () => unknown): Promise<string | undefined> {
  try {
    await run()
    return undefined
  } catch (error) {
    return (error as { code?: string }).code
  }
}

describe('rules', () => {
  const buffer = new Uint8Array(4096)

  test('an error stays until another event with rules, or for one request', async () => {
    const { layer } = setup()
    const image = await open(layer, { 'inject-error': [{ event: 'read_aio', errno: 28 }] }, true)
    expect(await codeOf(() => image.write(0, 512, buffer))).toBeUndefined()
    expect(await codeOf(() => image.read(0, 512, buffer))).toBe('ENOSPC')
    // Still active: writes have no rules of their own.
    expect(await codeOf(() => image.write(0, 512, buffer))).toBe('ENOSPC')
    await image.close().catch(() => undefined)

    const rules = [{ event: 'write_aio', once: true, immediately: true }]
    const once = await open(layer, { 'inject-error': rules }, true)
    expect(await codeOf(() => once.write(0, 512, buffer))).toBe('EIO')
    expect(await codeOf(() => once.write(0, 512, buffer))).toBeUndefined()
    await once.close()
  })

  test('only some requests, by kind and place', async () => {
    const { layer } = setup()
    const image = await open(layer, {
      'inject-error': [
        { event: 'none', iotype: 'read', sector: 8 },
        { event: 'none', iotype: 'discard', errno: 95 },
        { event: 'none', iotype: 'block-status', errno: 13 },
        { event: 'none', iotype: 'write-zeroes', errno: 28 },
        { event: 'none', iotype: 'flush', errno: 1 },
      ],
    })
    expect(await codeOf(() => image.read(0, 4096, buffer))).toBeUndefined()
    expect(await codeOf(() => image.read(4095, 1, buffer))).toBeUndefined()
    expect(await codeOf(() => image.read(4095, 2, buffer))).toBe('EIO')
    expect(await codeOf(() => image.write(4096, 512, buffer))).toBeUndefined()
    expect(await codeOf(() => image.discard(0, 512))).toBe('ENOTSUP')
    expect(await codeOf(() => image.writeZeroes(0, 512))).toBe('ENOSPC')
    const status = new BlockStatus()
    expect(await codeOf(() => image.node.status(0, 512, 'zero', status))).toBe('EACCES')
    expect(await codeOf(() => image.flush())).toBe('EPERM')
    await image.close().catch(() => undefined)
  })

  test('states', async () => {
    const { layer } = setup()
    const image = await open(
      layer,
      {
        'set-state': [
          { event: 'read_aio', state: 1, new_state: 2 },
          { event: 'read_aio', state: 2, new_state: 3 },
        ],
        'inject-error': [{ event: 'read_aio', state: 3, once: true }],
      },
      true,
    )
    const codes: (string | undefined)[] = []
    for (let n = 0; n < 4; n++) {
      codes.push(await codeOf(() => image.read(0, 512, buffer)))
    }
    expect(codes).toEqual([undefined, undefined, 'EIO', undefined])
    await image.close()
  })

  test('a delay, with and without an error', async () => {
    const { layer } = setup()
    const rule = { event: 'read_aio', 'delay-ns': 20_000_000 }
    const image = await open(layer, { 'inject-error': [{ ...rule, errno: 0, once: true }] }, true)
    const start = performance.now()
    expect(await codeOf(() => image.read(0, 512, buffer))).toBeUndefined()
    expect(performance.now() - start).toBeGreaterThan(15)
    expect(buffer.subarray(0, 512)).toEqual(content(512))
    await image.close()
    const failing = await open(layer, { 'inject-error': [{ ...rule, once: true }] }, true)
    const again = performance.now()
    expect(await codeOf(() => failing.read(0, 512, buffer))).toBe('EIO')
    expect(performance.now() - again).toBeGreaterThan(15)
    await failing.close()
  })

  test('a read-modify-write passes its events in order', async () => {
    const { layer } = setup()
    const seen: string[] = []
    const image = await open(layer, { align: 512 })
    const { debug } = image.node
    if (debug === undefined) {
      throw new Error('no hooks')
    }
    const event = debug.event.bind(debug)
    debug.event = (name) => {
      seen.push(name)
      return event(name)
    }
    await image.write(100, 1000, buffer)
    expect(seen.splice(0)).toEqual([
      'pwritev_rmw_head',
      'pwritev_rmw_after_head',
      'pwritev_rmw_tail',
      'pwritev_rmw_after_tail',
      'pwritev',
      'pwritev_done',
    ])
    await image.write(100, 10, buffer)
    expect(seen.splice(0)).toEqual([
      'pwritev_rmw_head',
      'pwritev_rmw_tail',
      'pwritev_rmw_after_head',
      'pwritev_rmw_after_tail',
      'pwritev',
      'pwritev_done',
    ])
    await image.write(512, 512, buffer)
    expect(seen.splice(0)).toEqual(['pwritev', 'pwritev_done'])
    await image.writeZeroes(0, 512)
    expect(seen.splice(0)).toEqual(['pwritev_zero', 'pwritev_done'])
    await image.close()
  })
})

describe('limits', () => {
  test('split and pad what reaches the image', async () => {
    const { layer, log, host } = setup()
    const image = await open(layer, { align: 512, 'max-transfer': 1024 })
    await image.write(512, 3072, content(3072).fill(7))
    const writes = log.flatMap((one) => (one.kind === 'write' ? [[one.offset, one.data.length]] : []))
    expect(writes).toEqual([
      [512, 1024],
      [1536, 1024],
      [2560, 1024],
    ])
    log.length = 0
    await image.write(5, 1, Uint8Array.of(9))
    expect(log.flatMap((one) => (one.kind === 'write' ? [[one.offset, one.data.length]] : []))).toEqual([
      [0, 512],
    ])
    expect([...(host.contents('/img')?.bytes().subarray(4, 7) ?? [])]).toEqual([4, 9, 6])
    await image.close()
  })

  test('small zero requests are not passed on, big ones in pieces', async () => {
    const { layer, log } = setup()
    const image = await open(layer, { align: 512, 'opt-write-zero': 4096, 'max-write-zero': 8192 })
    await image.writeZeroes(2048, 20480, ReqFlags.mayUnmap)
    const kinds = log.map((one) => {
      return one.kind === 'write'
        ? ['write', one.offset, one.data.length]
        : [one.kind, one.kind === 'zero' ? one.offset : 0, one.kind === 'zero' ? one.bytes : 0]
    })
    expect(kinds).toEqual([
      ['write', 2048, 2048],
      ['zero', 4096, 8192],
      ['zero', 12288, 8192],
      ['write', 20480, 2048],
    ])
    await image.close()
  })

  test.each([
    [{ align: 3 }, 'align 3'],
    [{ align: 512, 'max-transfer': 513 }, 'max-transfer 513'],
    [{ 'max-transfer': 3 * 2 ** 30 }, 'max-transfer 3221225472'],
    [{ 'opt-write-zero': 512, 'max-write-zero': 100 }, 'max-write-zero 100'],
    [{ align: 512, 'opt-discard': 3 }, 'opt-discard 3'],
    [{ 'opt-discard': 512, 'max-discard': 100 }, 'max-discard 100'],
  ])('%j cannot be met', async (options, text) => {
    const { layer } = setup()
    await expect(open(layer, options)).rejects.toThrow(`Cannot meet constraints with ${text}`)
  })
})

describe('configuration', () => {
  test('comes from a file, and the name says so', async () => {
    const { layer, host } = setup()
    const text =
      '# comment\n[inject-error "x"]\nevent = "read_aio"\nerrno = "13"\n\n[set-state]\nevent = "none"\n'
    host.put('/cfg', new TextEncoder().encode(text))
    const image = await Backend.open(layer, 'blkdebug:/cfg:/img', { driver: 'raw' })
    expect(image.node.filename).toBe('blkdebug:/cfg:/img')
    expect(await codeOf(() => image.read(0, 512, new Uint8Array(512)))).toBe('EACCES')
    await image.close()
  })

  test('options show in the name', async () => {
    const { layer } = setup()
    const image = await open(layer, { 'set-state': [{ event: 'none', new_state: 2 }], align: '4k' })
    expect(JSON.parse(image.node.filename.slice(5))).toEqual({
      driver: 'blkdebug',
      align: '4k',
      image: { driver: 'file', filename: '/img' },
      'set-state.0.event': 'none',
      'set-state.0.new_state': 2,
    })
    await image.close()
    const plain = await open(layer, {}, true)
    expect(plain.node.filename).toBe('blkdebug::/img')
    await plain.close()
  })

  test('permissions can be taken and kept from others', async () => {
    const { layer } = setup()
    const perms = { 'take-child-perms': ['resize'], 'unshare-child-perms': ['write', 'resize'] }
    const node = await layer.open(undefined, over(perms), { write: true })
    const [edge] = node.children
    expect([edge?.perm, edge?.shared]).toEqual([8, 5])
    await layer.unref(node)
  })

  test('the image grows through it', async () => {
    const { layer, host } = setup(4096)
    const image = await open(layer, {}, true)
    await image.node.state?.truncate?.(8192, { exact: true, preallocation: 'off', zero: false })
    expect(host.contents('/img')?.size).toBe(8192)
    await image.close()
  })
})
