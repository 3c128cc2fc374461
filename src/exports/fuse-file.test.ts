import { expect, test } from 'vitest'
import { qcow2 } from '../drivers/format/qcow2/index.js'
import { raw } from '../drivers/format/raw/index.js'
import { file } from '../drivers/protocol/file/index.js'
import { InitFlag, Opcode, SetAttr } from '../fuse/index.js'
import { createBlockLayer } from '../graph/index.js'
import type { FuseChannel, HostFuse } from '../host/index.js'
import { createImage } from '../image/index.js'
import { MemoryHost } from '../testing/index.js'
import { FuseExport, type FuseExportOptions } from './fuse-export.js'

interface Answer {
  readonly errno: number
  readonly body: DataView
  readonly data: Uint8Array
}

/** The kernel's side, played by the test. */
class Kernel implements FuseChannel {
  #unique = 0n
  readonly #requests: Uint8Array[] = []
  #waiting: ((bytes: Uint8Array | undefined) => void) | undefined
  readonly #answers = new Map<bigint, (answer: Answer) => void>()
  unmounted = false

  receive(): Uint8Array | undefined | Promise<Uint8Array | undefined> {
    const next = this.#requests.shift()
    if (next !== undefined || this.unmounted) {
      return next
    }
    return new Promise((resolve) => {
      this.#waiting = resolve
    })
  }

  send(bytes: Uint8Array | undefined): void {
    const waiting = this.#waiting
    this.#waiting = undefined
    if (waiting !== undefined) {
      waiting(bytes)
    } else if (bytes !== undefined) {
      this.#requests.push(bytes)
    }
  }

  reply(header: Uint8Array, data = new Uint8Array(0)): void {
    const view = new DataView(header.buffer, header.byteOffset, header.byteLength)
    expect(view.getUint32(0, true)).toBe(header.length + data.length)
    const answer = { errno: 0 - view.getInt32(4, true), body: new DataView(header.buffer, 16), data }
    this.#answers.get(view.getBigUint64(8, true))?.(answer)
  }

  unmount(): Promise<void> {
    this.unmounted = true
    this.send(undefined)
    return Promise.resolve()
  }

  request(
    opcode: number,
    body: readonly (readonly [bits: 32 | 64, value: number])[],
    data?: Uint8Array,
  ): Promise<Answer> {
    const length = body.reduce((sum, [bits]) => sum + bits / 8, 0)
    const bytes = new Uint8Array(40 + length + (data?.length ?? 0))
    const view = new DataView(bytes.buffer)
    const unique = ++this.#unique
    view.setUint32(0, bytes.length, true)
    view.setUint32(4, opcode, true)
    view.setBigUint64(8, unique, true)
    let at = 40
    for (const [bits, value] of body) {
      if (bits === 64) {
        view.setBigUint64(at, BigInt(value), true)
      } else {
        view.setUint32(at, value, true)
      }
      at += bits / 8
    }
    bytes.set(data ?? [], at)
    return new Promise((resolve) => {
      this.#answers.set(unique, resolve)
      this.send(bytes)
    })
  }

  async size(): Promise<number> {
    const { body } = await this.request(Opcode.getattr, [
      [64, 0],
      [64, 0],
    ])
    return Number(body.getBigUint64(16 + 8, true))
  }

  async mode(): Promise<number> {
    const { body } = await this.request(Opcode.getattr, [
      [64, 0],
      [64, 0],
    ])
    return body.getUint32(16 + 60, true)
  }

  async read(offset: number, size: number): Promise<Answer> {
    return await this.request(Opcode.read, [
      [64, 0],
      [64, offset],
      [32, size],
      [32, 0],
      [64, 0],
      [64, 0],
    ])
  }

  /** The errno, or the bytes written. */
  async write(offset: number, data: Uint8Array): Promise<string | number> {
    const { errno, body } = await this.request(
      Opcode.write,
      [
        [64, 0],
        [64, offset],
        [32, data.length],
        [32, 0],
        [64, 0],
        [64, 0],
      ],
      data,
    )
    return errno === 0 ? body.getUint32(0, true) : `errno ${errno}`
  }

  async fallocate(mode: number, offset: number, length: number): Promise<number> {
    return (
      await this.request(Opcode.fallocate, [
        [64, 0],
        [64, offset],
        [64, length],
        [32, mode],
        [32, 0],
      ])
    ).errno
  }

  async seek(whence: number, offset: number): Promise<string | number> {
    const { errno, body } = await this.request(Opcode.lseek, [
      [64, 0],
      [64, offset],
      [32, whence],
      [32, 0],
    ])
    return errno === 0 ? Number(body.getBigUint64(0, true)) : `errno ${errno}`
  }

  async setattr(valid: number, { size = 0, mode = 0, user = 0 }): Promise<number> {
    const body: [32 | 64, number][] = [
      [32, valid],
      [32, 0],
      [64, 0],
      [64, size],
      [64, 0],
      [64, 0],
      [64, 0],
      [64, 0],
      [32, 0],
      [32, 0],
      [32, 0],
      [32, mode],
      [32, 0],
      [32, user],
      [32, 0],
      [32, 0],
    ]
    return (await this.request(Opcode.setattr, body)).errno
  }
}

async function mount(
  options: Partial<FuseExportOptions> = {},
  format: 'raw' | 'qcow2' = 'raw',
  fuse?: HostFuse,
) {
  const kernel = new Kernel()
  const memory = new MemoryHost()
  const host = Object.assign(memory, {
    fuse: fuse ?? { user: 7, group: 8, mount: () => Promise.resolve(kernel) },
  })
  memory.put('/mnt')
  const layer = createBlockLayer({ host, drivers: [raw, qcow2, file] })
  if (format === 'raw') {
    memory.put('/image', new Uint8Array(8192).fill(1))
  } else {
    await createImage(layer, { filename: '/image', format: 'qcow2', size: 8192 })
  }
  const node = await layer.open('/image', { driver: format }, { write: true, unmap: true })
  const mounted = await FuseExport.create(layer, node, { mountpoint: '/mnt', ...options })
  await layer.unref(node)
  return { kernel, memory, layer, mounted }
}

const ones = (bytes: number): Uint8Array => new Uint8Array(bytes).fill(9)
/** errno */
const EACCES = 13
const EINVAL = 22
const ENOTSUP = 95

test('the handshake, and what the file looks like', async () => {
  const { kernel, mounted } = await mount({ writable: true })
  const { errno, body } = await kernel.request(Opcode.init, [
    [32, 7],
    [32, 38],
    [32, 131072],
    [32, 0xffffffff],
  ])
  expect([
    errno,
    body.byteLength,
    body.getUint32(0, true),
    body.getUint32(4, true),
    body.getUint32(20, true),
  ]).toEqual([0, 64, 7, 31, 1 << 20])
  expect(body.getUint32(12, true) & InitFlag.atomicTruncate).toBe(InitFlag.atomicTruncate)
  expect(await kernel.size()).toBe(8192)
  expect(await kernel.mode()).toBe(0o100600)
  expect((await kernel.request(Opcode.lookup, [])).errno).toBe(2)
  expect((await kernel.request(99, [])).errno).toBe(38)
  expect((await kernel.request(Opcode.statfs, [])).body.byteLength).toBe(80)
  await mounted.close()
  expect(kernel.unmounted).toBe(true)
})

test('reads end with the file', async () => {
  const { kernel, mounted } = await mount()
  expect((await kernel.read(8000, 1000)).data.length).toBe(192)
  expect((await kernel.read(9000, 10)).data.length).toBe(0)
  expect((await kernel.read(0, (1 << 20) + 1)).errno).toBe(EINVAL)
  expect([...(await kernel.read(3, 4)).data]).toEqual([1, 1, 1, 1])
  expect(await kernel.write(0, ones(5))).toBe(`errno ${EACCES}`)
  expect(await kernel.setattr(SetAttr.size, { size: 0 })).toBe(EACCES)
  expect(await kernel.fallocate(3, 0, 512)).toBe(EACCES)
  expect(await kernel.mode()).toBe(0o100400)
  await mounted.close()
})

test('writes end with the file, unless it may grow', async () => {
  const fixed = await mount({ writable: true })
  expect(await fixed.kernel.write(8000, ones(1000))).toBe(192)
  expect(await fixed.kernel.write(9000, ones(10))).toBe(0)
  expect(await fixed.kernel.size()).toBe(8192)
  await fixed.mounted.close()
  expect(fixed.memory.contents('/image')?.bytes()[8191]).toBe(9)

  const growing = await mount({ writable: true, growable: true }, 'qcow2')
  expect(await growing.kernel.write(9000, ones(100))).toBe(100)
  expect(await growing.kernel.size()).toBe(9216)
  expect([...(await growing.kernel.read(8998, 4)).data]).toEqual([0, 0, 9, 9])
  await growing.mounted.close()
})

test('several writes at once that grow', async () => {
  const { kernel, mounted } = await mount({ writable: true, growable: true }, 'qcow2')
  const places = [20000, 8192, 40000, 9000, 30000]
  expect(await Promise.all(places.map((at) => kernel.write(at, ones(512))))).toEqual([
    512, 512, 512, 512, 512,
  ])
  for (const at of places) {
    expect((await kernel.read(at, 512)).data.every((byte) => byte === 9)).toBe(true)
  }
  expect(await kernel.size()).toBe(40960)
  await mounted.close()
})

test('truncate, space and holes', async () => {
  const { kernel, mounted } = await mount({ writable: true })
  expect(await kernel.setattr(SetAttr.size, { size: 16384 })).toBe(0)
  expect(await kernel.size()).toBe(16384)
  expect(await kernel.setattr(SetAttr.size, { size: 4096 })).toBe(0)
  expect(await kernel.size()).toBe(4096)
  expect(await kernel.fallocate(0, 0, 512)).toBe(ENOTSUP)
  expect(await kernel.fallocate(0, 8192, 4096)).toBe(0)
  expect(await kernel.size()).toBe(12288)
  expect(await kernel.fallocate(2, 0, 512)).toBe(EINVAL)
  expect(await kernel.fallocate(3, 0, 512)).toBe(0)
  expect(await kernel.fallocate(16 | 1, 1024, 1 << 20)).toBe(0)
  expect(await kernel.size()).toBe(12288)
  expect([...(await kernel.read(1022, 4)).data]).toEqual([1, 1, 0, 0])
  expect(await kernel.fallocate(16, 12000, 1000)).toBe(0)
  expect(await kernel.size()).toBe(13312)
  expect(await kernel.fallocate(8, 0, 512)).toBe(ENOTSUP)
  await mounted.close()
})

test('data and holes are found', async () => {
  const { kernel, mounted } = await mount({ writable: true, growable: true }, 'qcow2')
  await kernel.write(200_000, ones(10))
  // The rest of the first cluster was zeroed when it came to belong to the disk.
  expect([await kernel.seek(3, 0), await kernel.seek(4, 0)]).toEqual([0, 65536])
  expect([await kernel.seek(3, 65536), await kernel.seek(4, 65536)]).toEqual([196608, 65536])
  expect([await kernel.seek(3, 200_005), await kernel.seek(4, 200_005)]).toEqual([200_005, 200_192])
  expect([await kernel.seek(3, 300_000), await kernel.seek(0, 0)]).toEqual(['errno 6', 'errno 22'])
  await mounted.close()
})

test('mode and owner', async () => {
  const alone = await mount({ allowOther: 'off', writable: true })
  expect(await alone.kernel.setattr(SetAttr.mode, { mode: 0o644 })).toBe(0)
  expect(await alone.kernel.mode()).toBe(0o100644)
  expect(await alone.kernel.setattr(SetAttr.user, { user: 5 })).toBe(ENOTSUP)
  await alone.mounted.close()
  const shared = await mount({ allowOther: 'on' })
  expect(await shared.kernel.setattr(SetAttr.mode, { mode: 0o777 })).toBe(0)
  expect(await shared.kernel.mode()).toBe(0o100555)
  expect(await shared.kernel.setattr(SetAttr.user, { user: 5 })).toBe(0)
  await shared.mounted.close()
})

test('requests that are cut off or make no sense are refused, and the rest is served', async () => {
  const { kernel, mounted } = await mount({ writable: true })
  for (const opcode of Object.values(Opcode)) {
    if (![Opcode.forget, Opcode.batchForget, Opcode.interrupt].includes(opcode as 2)) {
      await kernel.request(opcode, [])
    }
  }
  kernel.send(new Uint8Array(3))
  kernel.send(new Uint8Array(80).fill(255))
  const huge = await kernel.request(
    Opcode.write,
    [
      [64, 0],
      [64, 0],
      [32, 100_000],
      [32, 0],
      [64, 0],
      [64, 0],
    ],
    ones(5),
  )
  expect(huge.errno).toBe(EINVAL)
  expect((await kernel.read(2 ** 52, 5)).data.length).toBe(0)
  expect(await kernel.size()).toBe(8192)
  await mounted.close()
})

test('without the right for other users it is mounted for this one', async () => {
  const tried: boolean[] = []
  const kernel = new Kernel()
  const fuse: HostFuse = {
    user: 0,
    group: 0,
    mount: (_path, { allowOther }) => {
      tried.push(allowOther)
      return allowOther ? Promise.reject(Object.assign(denied)) : Promise.resolve(kernel)
    },
  }
  const { errnoError } = await import('../errors/index.js')
  const denied = errnoError('EPERM', 'mount')
  await (await mount({}, 'raw', fuse)).mounted.close()
  expect(tried).toEqual([true, false])
  await expect(mount({ allowOther: 'on' }, 'raw', fuse)).rejects.toThrow(
    'Failed to mount FUSE session to export: mount',
  )
})

test('places where nothing can be mounted', async () => {
  await expect(mount({ mountpoint: '/missing' })).rejects.toThrow(
    "Failed to stat '/missing': No such file or directory",
  )
  const { layer, mounted } = await mount()
  const node = await layer.open('/image', { driver: 'raw' })
  await expect(FuseExport.create(layer, node, { mountpoint: '/mnt' })).rejects.toThrow(
    "There already is a FUSE export on '/mnt'",
  )
  await expect(FuseExport.create(layer, node, { mountpoint: '/mnt', writable: true })).rejects.toThrow(
    'Cannot export read-only node as writable',
  )
  await mounted.close()
  await layer.unref(node)
})
