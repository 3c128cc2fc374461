import { describe, expect, test } from 'vitest'
import { file } from '../drivers/protocol/file/index.js'
import { type ErrnoName, ioError } from '../errors/index.js'
import { Backend, type BlockLayer, createBlockLayer } from '../graph/index.js'
import { MemoryHost, type MemoryOperation } from '../testing/index.js'
import type { HostFileState } from './state.js'

function setup(fault?: (operation: MemoryOperation) => ErrnoName | undefined): {
  host: MemoryHost
  layer: BlockLayer
} {
  const host = new MemoryHost(fault === undefined ? {} : { fault })
  return { host, layer: createBlockLayer({ host, drivers: [file] }) }
}

function options(
  filename: string,
  more: Record<string, string | boolean> = {},
): Record<string, string | boolean> {
  return { driver: 'file', filename, ...more }
}

describe('flushing', () => {
  test('a failed sync fails every later one, because the kernel may have dropped the data', async () => {
    let failing = true
    const { host, layer } = setup(({ kind }) => (kind === 'flush' && failing ? 'EIO' : undefined))
    host.put('/f', new Uint8Array(512))
    const backend = await Backend.open(layer, undefined, options('/f'), { write: true })
    await backend.write(0, 1, Uint8Array.of(1))
    await expect(backend.flush()).rejects.toMatchObject({ code: 'EIO' })
    failing = false
    await expect(backend.flush()).rejects.toMatchObject({ code: 'EIO' })
    await expect(backend.close()).rejects.toMatchObject({ code: 'EIO' })
  })

  test('with O_DIRECT a failure is not final', async () => {
    let failing = true
    const { host, layer } = setup(({ kind }) => (kind === 'flush' && failing ? 'EIO' : undefined))
    host.put('/f', new Uint8Array(512))
    const backend = await Backend.open(layer, undefined, options('/f', { 'cache.direct': true }), {
      write: true,
    })
    await backend.write(0, 512, new Uint8Array(512))
    await expect(backend.flush()).rejects.toMatchObject({ code: 'EIO' })
    failing = false
    await backend.flush()
    await backend.close()
  })
})

describe('invalidating the cache', () => {
  test.each([
    [{}, ['flush', 'drop 0+512']],
    [{ 'drop-cache': 'off' }, []],
    [{ 'cache.direct': true }, []],
  ])('with %j', async (more, expected) => {
    const { host, layer } = setup()
    host.put('/f', new Uint8Array(512))
    const node = await layer.open(undefined, options('/f', more), { write: true })
    const done: string[] = []
    const state = node.state as HostFileState
    state.file.dropCache = (offset, bytes) => {
      done.push(`drop ${offset}+${bytes}`)
    }
    state.file.sync = () => {
      done.push('flush')
      return undefined
    }
    await state.invalidate()
    expect(done).toEqual(expected)
    await layer.unref(node)
  })

  test('a check that the platform cannot make is not passed over', async () => {
    const { host, layer } = setup()
    host.put('/f', new Uint8Array(512))
    const node = await layer.open(undefined, options('/f', { 'x-check-cache-dropped': 'on' }))
    await expect((node.state as HostFileState).invalidate()).rejects.toThrow(
      'mincore failed: Operation not supported',
    )
    await layer.unref(node)
  })
})

describe('opening', () => {
  test('a temporary file is gone as soon as it is open, and readable until it is closed', async () => {
    const { host, layer } = setup()
    host.put('/t', Uint8Array.of(1, 2, 3, 4))
    const node = await layer.open('/t', { driver: 'file' }, { temporary: true })
    expect(host.paths).toEqual([])
    const read = new Uint8Array(4)
    await node.read(0, 4, read, 0, 0)
    expect([...read]).toEqual([1, 2, 3, 4])
    await layer.unref(node)
  })

  test('a temporary file that is refused is gone as well', async () => {
    const { host, layer } = setup()
    host.put('/t', new Uint8Array(512), 'fifo')
    await expect(layer.open('/t', { driver: 'file' }, { temporary: true })).rejects.toThrow(
      "'file' driver requires '/t' to be a regular file",
    )
    expect(host.paths).toEqual([])
  })

  test('a read-only file system counts as missing access', async () => {
    const { host, layer } = setup()
    host.put('/f')
    host.open = () => {
      throw ioError('EROFS')
    }
    await expect(layer.open('/f', { driver: 'file' }, { write: true })).rejects.toMatchObject({
      code: 'EACCES',
      message: "Could not open '/f': Read-only file system",
    })
  })

  test('a file system without O_DIRECT is named as such', async () => {
    const { host, layer } = setup()
    host.put('/f')
    host.open = () => {
      throw ioError('EINVAL')
    }
    await expect(layer.open(undefined, options('/f', { 'cache.direct': true }))).rejects.toThrow(
      "Could not open '/f': filesystem does not support O_DIRECT",
    )
    await expect(layer.open(undefined, options('/f'))).rejects.toThrow(
      "Could not open '/f': Invalid argument",
    )
  })

  test('O_DIRECT decides the alignment; without it any request goes', async () => {
    const { host, layer } = setup()
    host.put('/f', new Uint8Array(4096))
    const direct = await layer.open(undefined, options('/f', { 'cache.direct': 'on' }))
    const cached = await layer.open(undefined, options('/f'))
    expect(direct.limits.requestAlignment).toBe(512)
    expect(cached.limits.requestAlignment).toBe(1)
    expect(cached.limits.optMemAlignment).toBe(4096)
    await layer.unref(direct)
    await layer.unref(cached)
  })

  test('nothing stays locked or open after a failure', async () => {
    const { host, layer } = setup()
    const contents = host.put('/f', new Uint8Array(512))
    const first = await Backend.open(layer, undefined, options('/f'), { write: true, noShare: true })
    const locks = contents.locks.length
    await expect(Backend.open(layer, undefined, options('/f'), { write: true })).rejects.toThrow(
      'Failed to get "write" lock',
    )
    expect(contents.locks).toHaveLength(locks)
    await first.close()
    expect(contents.locks).toHaveLength(0)
  })
})
