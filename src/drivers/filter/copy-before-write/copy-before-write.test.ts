import { expect, test } from 'vitest'
import { ioError } from '../../../errors/index.js'
import { Backend, type BlockDriver, createBlockLayer } from '../../../graph/index.js'
import { FakeClock, MemoryHost, type MemoryHostOptions } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { snapshotAccess } from '../snapshot-access/index.js'
import { copyBeforeWrite } from './index.js'

const size = 1 << 20
const old = Uint8Array.from({ length: size }, (_, at) => (at % 251) + 1)

async function setup(host: MemoryHostOptions = {}, options: object = {}) {
  const memory = new MemoryHost(host)
  const image = memory.put('/image', old)
  const target = memory.put('/target', new Uint8Array(size))
  const layer = createBlockLayer({ host: memory, drivers: [copyBeforeWrite, snapshotAccess, file] })
  const guest = await Backend.open(
    layer,
    undefined,
    {
      driver: 'copy-before-write',
      'node-name': 'cbw',
      file: { driver: 'file', filename: '/image' },
      target: { driver: 'file', filename: '/target' },
      ...options,
    } as never,
    { write: true, unmap: true },
  )
  const frozen = await Backend.open(layer, undefined, { driver: 'snapshot-access', file: 'cbw' })
  const snapshot = async (): Promise<Uint8Array> => {
    const buffer = new Uint8Array(size)
    await frozen.read(0, size, buffer)
    return buffer
  }
  return { guest, frozen, image, target, layer, snapshot }
}

test('the snapshot stays as the image was, whatever is written', async () => {
  const { guest, frozen, target, image, snapshot } = await setup({ delay: () => 1 })
  const writes: unknown[] = []
  for (let i = 0; i < 20; i++) {
    writes.push(guest.write((i * 40_000) % (size - 5000), 5000, new Uint8Array(5000)))
    writes.push(snapshot().then((seen) => expect(Buffer.compare(seen, old)).toBe(0)))
  }
  await Promise.all(writes)
  await guest.writeZeroes(131072, 65536)
  await guest.discard(196608, 65536)
  expect(Buffer.compare(await snapshot(), old)).toBe(0)
  expect(image.bytes()[0]).toBe(0)
  expect(target.bytes()[0]).toBe(1)
  await frozen.close()
  await guest.close()
})

test('only what is overwritten is copied, once', async () => {
  const { guest, frozen, target, snapshot } = await setup()
  await guest.write(70_000, 10, new Uint8Array(10))
  const copied = target.bytes()
  expect(copied.subarray(65536, 131072)).toEqual(old.subarray(65536, 131072))
  expect(copied.subarray(0, 65536).every((byte) => byte === 0)).toBe(true)
  await guest.write(80_000, 10, new Uint8Array(10))
  expect(Buffer.compare(await snapshot(), old)).toBe(0)
  await frozen.close()
  await guest.close()
})

test('a failed copy fails the write, and the image is as it was', async () => {
  const { guest, frozen, image, snapshot } = await setup({
    fault: (operation) => (operation.kind === 'write' && operation.path === '/target' ? 'ENOSPC' : undefined),
  })
  await expect((async () => guest.write(0, 512, new Uint8Array(512)))()).rejects.toMatchObject({
    code: 'ENOSPC',
  })
  expect(image.bytes()[0]).toBe(1)
  expect(Buffer.compare(await snapshot(), old)).toBe(0)
  await frozen.close()
  await guest.close()
})

test('or else the snapshot, and the write goes on', async () => {
  const { guest, frozen, image, snapshot } = await setup(
    {
      fault: (operation) => (operation.kind === 'write' && operation.path === '/target' ? 'EIO' : undefined),
    },
    { 'on-cbw-error': 'break-snapshot' },
  )
  await guest.write(0, 512, new Uint8Array(512))
  expect(image.bytes()[0]).toBe(0)
  await expect(snapshot()).rejects.toMatchObject({ code: 'EACCES' })
  await frozen.close()
  await guest.close()
})

test('a copy that takes too long fails the write', async () => {
  const clock = new FakeClock()
  const { guest, frozen, image } = await setup(
    { clock, delay: (operation) => (operation.kind === 'write' ? 2000 : 0) },
    { 'cbw-timeout': 5 },
  )
  let code: unknown
  const write = (async () => guest.write(0, 512, new Uint8Array(512)))().catch((error: { code: string }) => {
    code = error.code
  })
  await Promise.resolve()
  await Promise.resolve()
  clock.expire()
  await write
  expect(code).toBe('ETIMEDOUT')
  expect(image.bytes()[0]).toBe(1)
  await frozen.close()
  await guest.close()
})

test('what a reader is done with is not copied any more', async () => {
  const { guest, frozen, target, layer, snapshot } = await setup()
  await frozen.close()
  const reader = await Backend.open(
    layer,
    undefined,
    { driver: 'snapshot-access', file: 'cbw', discard: 'unmap' },
    { write: false },
  )
  const state = guest.node.state as unknown as { discardSnapshot(offset: number, bytes: number): unknown }
  await state.discardSnapshot(0, 131072)
  await guest.write(0, 131072, new Uint8Array(131072))
  expect(target.bytes()[0]).toBe(0)
  await expect((async () => reader.read(0, 512, new Uint8Array(512)))()).rejects.toMatchObject({
    code: 'EACCES',
  })
  await expect(snapshot()).rejects.toThrow()
  await reader.close()
  await guest.close()
})

/** A protocol that knows, does not know, or cannot tell its clusters. */
function strange(info: (() => { clusterSize?: number }) | undefined): BlockDriver {
  return {
    name: 'strange',
    kind: 'protocol',
    options: {},
    load: () => ({
      open: () => ({
        length: size,
        direct: { read: () => undefined, write: () => undefined },
        ...(info === undefined ? {} : { info }),
        close: () => undefined,
      }),
    }),
  }
}

async function openOn(driver: BlockDriver): Promise<{ warnings: readonly string[]; close(): Promise<void> }> {
  const memory = new MemoryHost()
  memory.put('/image', old)
  const warnings: string[] = []
  memory.warn = (line) => {
    warnings.push(line)
  }
  const layer = createBlockLayer({ host: memory, drivers: [copyBeforeWrite, file, driver] })
  const guest = await Backend.open(
    layer,
    undefined,
    {
      driver: 'copy-before-write',
      file: { driver: 'file', filename: '/image' },
      target: { driver: 'strange' },
    },
    { write: true },
  )
  return { warnings, close: () => guest.close() }
}

test('a target that says nothing of clusters is taken with a warning', async () => {
  const open = await openOn(strange(undefined))
  expect(open.warnings[0]).toContain("doesn't provide information about the block size")
  await open.close()
  const silent = await openOn(strange(() => ({})))
  expect(silent.warnings).toEqual([])
  await silent.close()
})

test('a target that cannot tell its clusters is refused', async () => {
  const broken = strange(() => {
    throw ioError('EIO')
  })
  await expect(openOn(broken)).rejects.toMatchObject({
    code: 'EIO',
    message:
      "Couldn't determine the cluster size of the target image, which has no backing file: Input/output error",
    hint: 'Aborting, since this may create an unusable destination image',
  })
})
