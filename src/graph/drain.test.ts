import { expect, test } from 'vitest'
import { raw } from '../drivers/format/raw/index.js'
import { file } from '../drivers/protocol/file/index.js'
import { MemoryHost } from '../testing/index.js'
import { appendNode, Backend, type BlockDriver, createBlockLayer, drain, replaceNode } from './index.js'

const cow: BlockDriver = {
  name: 'cow',
  kind: 'format',
  options: {},
  supportsBacking: true,
  load: () => ({
    open: ({ file }) => ({
      length: file.node.length,
      map: {
        resolveRead: (_offset, bytes, out) => {
          out.unallocated(bytes)
          return undefined
        },
      },
      close: () => undefined,
    }),
  }),
}

function setup(turns: number) {
  const host = new MemoryHost({ delay: (operation) => (operation.kind === 'read' ? turns : 0) })
  for (const [name, fill] of [
    ['/a', 1],
    ['/b', 2],
  ] as const) {
    host.put(name, new Uint8Array(65536).fill(fill))
  }
  return createBlockLayer({ host, drivers: [raw, cow, file] })
}

test('a drained section waits for what is in flight and holds back what comes', async () => {
  const layer = setup(20)
  const backend = await Backend.open(layer, '/a', { driver: 'raw' })
  const buffer = new Uint8Array(512)
  let first = false
  let second = false
  const one = Promise.resolve(backend.read(0, 512, buffer)).then(() => {
    first = true
  })
  const section = await drain([backend.node])
  expect([first, backend.node.requests.size, backend.node.file?.requests.size]).toEqual([true, 0, 0])
  const two = Promise.resolve(backend.read(0, 512, buffer)).then(() => {
    second = true
  })
  for (let i = 0; i < 50; i++) {
    await Promise.resolve()
  }
  expect([second, backend.node.requests.size]).toEqual([false, 0])
  section.end()
  section.end()
  await Promise.all([one, two])
  expect(second).toBe(true)
  await backend.close()
})

test('a drained section on a lower node holds back the users above', async () => {
  const layer = setup(3)
  const backend = await Backend.open(layer, '/a', { driver: 'raw' })
  const below = backend.node.file
  if (below === undefined) {
    throw new Error('no file')
  }
  const section = await drain([below])
  let done = false
  const read = Promise.resolve(backend.read(0, 512, new Uint8Array(512))).then(() => {
    done = true
  })
  await new Promise((resolve) => setTimeout(resolve, 5))
  expect(done).toBe(false)
  section.end()
  await read
  await backend.close()
})

test('nodes change under running requests without a lost or misdirected one', async () => {
  const layer = setup(7)
  const a = await layer.open('/a', { driver: 'raw' })
  const b = await layer.open('/b', { driver: 'raw' })
  const backend = new Backend(layer, { perm: 1 })
  await backend.insert(a)
  let stop = false
  const seen = new Set<number>()
  let reads = 0
  const reader = async (): Promise<void> => {
    const buffer = new Uint8Array(512)
    while (!stop) {
      await backend.read(reads++ % 100, 400, buffer)
      expect(new Set(buffer.subarray(0, 400)).size).toBe(1)
      seen.add(buffer[0] ?? -1)
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
  const readers = [reader(), reader(), reader()]
  for (let round = 0; round < 30; round++) {
    const [from, to] = round % 2 === 0 ? [a, b] : [b, a]
    await replaceNode(from, to)
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
  const overlay = await layer.open('/b', { driver: 'cow', backing: null })
  await appendNode(overlay, a)
  stop = true
  await Promise.all(readers)
  expect([...seen].sort()).toEqual([1, 2])
  expect(backend.node).toBe(overlay)
  await backend.close()
  for (const node of [overlay, a, b]) {
    await layer.unref(node)
  }
  expect(layer.nodes.size).toBe(0)
})
