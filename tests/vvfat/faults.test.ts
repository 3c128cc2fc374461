import { describe, expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import type { ErrnoName } from '../../src/errors/index.js'
import { createBlockLayer } from '../../src/graph/index.js'
import { seeded } from '../formats/format-under-test.js'
import { FolderHost, FolderRecord, type HostOperation, rootPath, type Tree } from './folder-host.js'
import { become, kinds, problemOf, RandomTree, shown, withDisk } from './guest.js'

const seeds = Number(process.env.FAULT_SEEDS ?? 4)

interface Outcome {
  /** Operations of the first flush, and those that failed. */
  readonly operations: number
  readonly failed: HostOperation | undefined
  readonly flushed: boolean
}

/** A guest's changes are written back while operation `failAt` fails, and again when nothing does. */
async function run(kind: string, seed: number, failAt: number, code: ErrnoName): Promise<Outcome> {
  const random = seeded(seed)
  const trees = new RandomTree(random)
  const before = trees.snapshot()
  trees.change(8)
  const after = trees.snapshot()
  const watched = new FolderRecord()
  const host = new FolderHost(before, watched)
  let operations = 0
  let failed: HostOperation | undefined
  let flushed = true
  await withDisk(host, kind, async (node) => {
    await become(node, after, kind, random)
    watched.fault = (operation) => {
      if (operations++ !== failAt) {
        return undefined
      }
      failed = operation
      return code
    }
    try {
      await node.flush()
    } catch (error) {
      expect(error).toMatchObject({ code })
      flushed = false
    }
    watched.fault = undefined
    const note = `seed ${seed}: ${failed} as operation ${failAt}`
    if (flushed) {
      expect(shown(host.tree()), note).toEqual(shown(after))
    } else {
      expect(problemOf(host.tree(), before, after), note).toBeUndefined()
    }
    // The disk has kept everything, so that nothing is lost once the host is well again.
    await node.flush()
    expect(shown(host.tree()), note).toEqual(shown(after))
    expect([...host.tree().keys()], note).toEqual([...after.keys()])
  })
  expect(watched.outside).toEqual([])
  return { operations, failed, flushed }
}

describe.each(kinds)('fat:rw:%s', (kind) => {
  test.each(['EIO', 'ENOSPC'] as const)(
    '%s of any one operation of a flush; the next one succeeds',
    async (code) => {
      const felt = new Set<HostOperation>()
      for (let seed = 1; seed <= seeds; seed++) {
        const { operations, flushed } = await run(kind, seed, -1, code)
        expect(flushed).toBe(true)
        for (let at = 0; at < operations; at++) {
          const { failed, flushed: fine } = await run(kind, seed, at, code)
          if (failed !== undefined && !fine) {
            felt.add(failed)
          }
        }
      }
      const all: HostOperation[] = [
        'create',
        'write',
        'flush',
        'rename',
        'unlink',
        'syncFolder',
        'copyPermissions',
        'read',
      ]
      expect(all.filter((operation) => !felt.has(operation))).toEqual([])
    },
  )

  test('a host that stays broken fails the flush and the closing, and no file is half written', async () => {
    for (const operation of ['create', 'write', 'flush', 'rename', 'syncFolder'] as const) {
      const trees = new RandomTree(seeded(8))
      const before = trees.snapshot()
      trees.change(8)
      const after = trees.snapshot()
      const watched = new FolderRecord()
      const host = new FolderHost(before, watched)
      const done = withDisk(host, kind, async (node) => {
        await become(node, after, kind, seeded(9))
        watched.fault = (other, path) =>
          other === operation && path.startsWith(rootPath) ? 'EIO' : undefined
        await expect(node.flush()).rejects.toMatchObject({ code: 'EIO' })
      })
      await expect(done).rejects.toMatchObject({ code: 'EIO' })
      expect(problemOf(host.tree(), before, after), operation).toBeUndefined()
      expect(watched.outside).toEqual([])
    }
  })
})

const files: Tree = new Map([
  ['first', new Uint8Array(10_000).fill(1)],
  ['second', new Uint8Array(10_000).fill(2)],
  ['third', new Uint8Array(10_000).fill(3)],
])
/** Where the contents of the files begin in a floppy of 2.88 MB: behind boot sector, tables and root folder. */
const firstFile = 16 * 512 * 2 + 512 * (1 + 2 * 2)

async function readOnly(host: FolderHost) {
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const node = await layer.open(`fat:floppy:${rootPath}`, { driver: 'raw' })
  const whole = new Uint8Array(node.length)
  await node.read(0, whole.length, whole, 0, 0)
  const at = [1, 2, 3].map((value) => whole.indexOf(value, firstFile))
  const read = async (offset: number, bytes = 512): Promise<Uint8Array> => {
    const data = new Uint8Array(bytes)
    await node.read(offset, bytes, data, 0, 0)
    return data
  }
  return { layer, node, at: at as [number, number, number], read }
}

test('EIO of a file of the folder fails the reads that want it, and no others', async () => {
  const watched = new FolderRecord()
  const { layer, node, at, read } = await readOnly(new FolderHost(files, watched))
  watched.fault = (kind, path) => (kind === 'read' && path.endsWith('/second') ? 'EIO' : undefined)
  await expect(read(at[1])).rejects.toMatchObject({ code: 'EIO' })
  await expect(read(at[0], at[2] - at[0])).rejects.toMatchObject({ code: 'EIO' })
  expect((await read(at[0]))[0]).toBe(1)
  expect((await read(at[2]))[0]).toBe(3)
  expect((await read(0))[0]).toBe(0xeb)
  watched.fault = undefined
  expect((await read(at[1]))[0]).toBe(2)
  await layer.unref(node)
})

test('a file that has become shorter ends with zeroes, one that is gone cannot be read', async () => {
  const host = new FolderHost(files)
  const { layer, node, at, read } = await readOnly(host)
  await layer.unref(node)
  const again = await layer.open(`fat:floppy:${rootPath}`, { driver: 'raw' })
  host.put(`${rootPath}/first`, new Uint8Array(100).fill(7))
  host.unlink(`${rootPath}/second`)
  const data = new Uint8Array(512)
  await again.read(at[0], 512, data, 0, 0)
  expect([data[99], data[100]]).toEqual([7, 0])
  await expect(Promise.resolve(again.read(at[1], 512, data, 0, 0))).rejects.toMatchObject({ code: 'ENOENT' })
  await layer.unref(again)
  expect(read).toBeTypeOf('function')
})

test('EIO of a file that is about to be replaced fails the flush before anything changes', async () => {
  const watched = new FolderRecord()
  const host = new FolderHost(files, watched)
  const after = new Map([...files, ['first', new Uint8Array(20_000).fill(9)]])
  await withDisk(host, 'floppy:', async (node) => {
    await become(node, after, 'floppy:', seeded(1))
    watched.fault = (kind, path) => (kind === 'read' && path.startsWith(rootPath) ? 'EIO' : undefined)
    await expect(node.flush()).rejects.toMatchObject({ code: 'EIO' })
    expect(watched.events).toEqual([])
    watched.fault = undefined
  })
  expect(shown(host.tree())).toEqual(shown(after))
})

test('a guest may give a file the name of a temporary one that a failure has left', async () => {
  const watched = new FolderRecord()
  const host = new FolderHost(files, watched)
  const after = new Map([
    ['.vvfat-0.tmp', new Uint8Array(100).fill(8)],
    ['first', new Uint8Array(20_000).fill(9)],
    ['second', new Uint8Array(7).fill(2)],
  ])
  await withDisk(host, 'floppy:', async (node) => {
    await become(node, new Map([...after].slice(1)), 'floppy:', seeded(1))
    watched.fault = (kind) => (kind === 'rename' ? 'EIO' : undefined)
    await expect(node.flush()).rejects.toMatchObject({ code: 'EIO' })
    expect([...host.tree().keys()]).toContain('.vvfat-0.tmp')
    watched.fault = undefined
    await become(node, after, 'floppy:', seeded(2))
    await node.flush()
    expect(host.tree()).toEqual(after)
  })
})

test('without room for temporary files the disk does not open, or the write fails and can be made again', async () => {
  const watched = new FolderRecord()
  const host = new FolderHost(files, watched)
  const create = host.createTemporary.bind(host)
  host.createTemporary = () => {
    throw Object.assign(new Error('no room'), { code: 'ENOSPC' })
  }
  await expect(withDisk(host, 'floppy:', async () => undefined)).rejects.toMatchObject({ code: 'ENOSPC' })
  host.createTemporary = create
  await withDisk(host, 'floppy:', async (node) => {
    const sector = new Uint8Array(512).fill(5)
    const free = node.length - 512
    watched.fault = (kind) => (kind === 'write' ? 'ENOSPC' : undefined)
    await expect(Promise.resolve(node.write(free, 512, sector, 0, 0))).rejects.toMatchObject({
      code: 'ENOSPC',
    })
    watched.fault = undefined
    await node.write(free, 512, sector, 0, 0)
    const back = new Uint8Array(512)
    await node.read(free, 512, back, 0, 0)
    expect(Buffer.compare(back, sector)).toBe(0)
  })
  expect(shown(host.tree())).toEqual(shown(files))
  expect(watched.events).toEqual([])
})
