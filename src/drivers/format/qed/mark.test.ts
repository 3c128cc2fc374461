import { expect, test } from 'vitest'
import { readU32LE } from '../../../bytes/index.js'
import type { ErrnoName } from '../../../errors/index.js'
import { type BlockLayer, type BlockNode, createBlockLayer, createWithDriver } from '../../../graph/index.js'
import { MemoryHost, type MemoryOperation } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { raw } from '../raw/index.js'
import { qed } from './index.js'

const cluster = 65536
const l1 = cluster
const l1End = 5 * cluster

interface Setup {
  readonly host: MemoryHost
  readonly layer: BlockLayer
  readonly log: MemoryOperation[]
  /** What every write fails with. */
  readonly fault: { code: ErrnoName | undefined }
}

/** `/image`, of 1 GiB, and `/overlay` over it. */
async function setup(): Promise<Setup> {
  const log: MemoryOperation[] = []
  const fault: Setup['fault'] = { code: undefined }
  const host = new MemoryHost({
    log: (operation) => log.push(operation),
    fault: ({ kind }) => (kind === 'write' ? fault.code : undefined),
  })
  const layer = createBlockLayer({ host, drivers: [raw, qed, file] })
  await createWithDriver(layer, qed, '/image', { size: 1 << 30 })
  await createWithDriver(layer, qed, '/overlay', {
    size: 1 << 30,
    backing_file: '/image',
    backing_fmt: 'qed',
  })
  log.length = 0
  return { host, layer, log, fault }
}

function isMarked(host: MemoryHost, name = '/image'): boolean {
  return ((host.contents(name)?.bytes()[16] ?? 0) & 2) !== 0
}

async function write(node: BlockNode, offset: number, bytes = 4096): Promise<void> {
  await node.write(offset, bytes, new Uint8Array(bytes).fill(0xaa), 0, 0)
}

test('the mark is there from the first new cluster on, and goes with a flush', async () => {
  const { host, layer } = await setup()
  const node = await layer.open('/image', {}, { write: true })
  expect(isMarked(host)).toBe(false)
  await write(node, 0)
  expect(isMarked(host)).toBe(true)
  await node.flush()
  expect(isMarked(host)).toBe(false)
  await write(node, 512)
  expect(isMarked(host), 'written in place').toBe(false)
  await node.writeZeroes(cluster, cluster, 0)
  expect(isMarked(host)).toBe(true)
  await layer.unref(node)
  expect(isMarked(host)).toBe(false)
})

test('there is none over a backing file', async () => {
  const { host, layer } = await setup()
  const node = await layer.open('/overlay', {}, { write: true })
  await write(node, 0)
  await node.writeZeroes(cluster, cluster, 0)
  expect(isMarked(host, '/overlay')).toBe(false)
  await layer.unref(node)
})

test.each([
  ['data and zeroes', 0.7],
  ['zeroes alone', 0],
])(
  '%s: no table changes but under a durable mark, which goes after they are durable',
  async (_what, share) => {
    const { layer, log } = await setup()
    const node = await layer.open('/image', {}, { write: true })
    const random = ((state: number) => () => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0
      return state / 2 ** 32
    })(7)
    for (let step = 0; step < 120; step++) {
      // Much is in flight at once.
      const requests = Array.from({ length: 4 }, () => {
        const at = Math.floor(random() * 16384) * cluster
        const what = random()
        return what < share
          ? write(node, at, 1 + Math.floor(random() * 4096))
          : what < 0.9
            ? Promise.resolve(node.writeZeroes(at, cluster, 0))
            : Promise.resolve(node.flush())
      })
      await Promise.all(requests)
    }
    await layer.unref(node)
    // Places of tables of the second level are known from what was written to the first.
    const tables = new Set<number>()
    for (const operation of log) {
      if (operation.kind === 'write' && operation.offset >= l1 && operation.offset < l1End) {
        for (let at = 0; at < operation.data.length; at += 8) {
          tables.add(readU32LE(operation.data, at))
        }
      }
    }
    tables.delete(0)
    const isTable = (offset: number) =>
      (offset >= l1 && offset < l1End) ||
      [...tables].some((table) => offset >= table && offset < table + l1End - l1)
    let mark: 'none' | 'written' | 'durable' = 'none'
    let unflushedTables = 0
    const seen = { marked: 0, unmarked: 0, tables: 0 }
    for (const operation of log) {
      if (operation.kind === 'flush') {
        unflushedTables = 0
        mark = mark === 'written' ? 'durable' : mark
      } else if (operation.kind === 'write' && operation.offset === 0) {
        const marks = ((operation.data[16] ?? 0) & 2) !== 0
        if (marks) {
          mark = mark === 'durable' ? 'durable' : 'written'
          seen.marked++
        } else {
          expect(unflushedTables, 'tables that are not durable when the mark goes').toBe(0)
          mark = 'none'
          seen.unmarked++
        }
      } else if (operation.kind === 'write' && isTable(operation.offset)) {
        expect(mark, `table at ${operation.offset}`).toBe('durable')
        unflushedTables++
        seen.tables++
      }
    }
    expect(Math.min(seen.marked, seen.unmarked, seen.tables)).toBeGreaterThan(5)
  },
)

test('an image that was found marked and not looked at stays so', async () => {
  const { host, layer } = await setup()
  const bytes = host.contents('/image')?.bytes().slice() ?? new Uint8Array(0)
  bytes[16] = 2
  host.put('/image', bytes)
  const node = await layer.open('/image', {}, { write: true, check: true })
  await node.flush()
  await layer.unref(node)
  expect(isMarked(host)).toBe(true)
})

test('a mark that cannot be written fails the write, and nothing else', async () => {
  const { layer, host, fault } = await setup()
  const node = await layer.open('/image', {}, { write: true })
  fault.code = 'EIO'
  await expect(write(node, 0)).rejects.toMatchObject({ code: 'EIO' })
  fault.code = undefined
  expect(isMarked(host)).toBe(false)
  await write(node, 0)
  expect(isMarked(host)).toBe(true)
  await layer.unref(node)
})
