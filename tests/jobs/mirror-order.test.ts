import { expect, test } from 'vitest'
import type { BlockNode } from '../../src/graph/index.js'
import { createMirror } from '../../src/jobs/index.js'
import { Machine, read, settled, untilReady } from './machine.js'

const size = 1 << 20
const block = 64 * 1024

/** Holds the first write to a node until it is let go. */
function holdFirstWrite(node: BlockNode): { readonly begun: Promise<void>; letGo(): void } {
  const write = node.write.bind(node)
  let begun = (): void => undefined
  let letGo = (): void => undefined
  const beginning = new Promise<void>((resolve) => {
    begun = resolve
  })
  const gate = new Promise<void>((resolve) => {
    letGo = resolve
  })
  let first = true
  node.write = (offset, bytes, buffer, bufferOffset, flags) => {
    if (!first) {
      return write(offset, bytes, buffer, bufferOffset, flags)
    }
    first = false
    begun()
    return gate.then(() => settled(write(offset, bytes, buffer, bufferOffset, flags)))
  }
  return { begun: beginning, letGo }
}

async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    await new Promise((resolve) => setImmediate(resolve))
  }
}

// The job has read old data and is about to write it to the target: the guest's write must not overtake it there.
test.each([
  ['the whole of what is being copied', 0, block],
  ['a part of it', 4096, 512],
] as const)(
  'write-blocking: a write to %s comes to the target after what is on its way',
  async (_, at, bytes) => {
    const machine = new Machine()
    const device = await machine.chain([{ name: '/s', size, clusterSize: block }], (_at, write) =>
      write(0, new Uint8Array(block).fill(1)),
    )
    await machine.create({ name: '/t', size, clusterSize: block })
    const target = await machine.layer.open('/t', { driver: 'qcow2' }, { write: true, unmap: true })
    const held = holdFirstWrite(target)
    const job = await createMirror({
      ...{ node: device.node, target, sync: 'full', jobId: 'j', copyMode: 'write-blocking' },
      granularity: 4096,
    })
    job.start()
    await held.begun
    let answered = false
    const written = settled(device.write(at, bytes, new Uint8Array(bytes).fill(2))).then(() => {
      answered = true
    })
    await turns(50)
    expect(answered).toBe(false)
    held.letGo()
    await written
    await untilReady(job)
    job.cancelAsBlockJob()
    await job.wait()
    await machine.layer.unref(target)
    const expected = await read(device)
    expect(expected[at]).toBe(2)
    expect(Buffer.compare(await machine.contents('/t'), expected)).toBe(0)
    await device.close()
  },
)

// The other way round: the guest's write is on its way to the target, the job must not copy there meanwhile.
test('write-blocking: two writes of the guest to one granule come to the target in the order of the source', async () => {
  const machine = new Machine()
  const device = await machine.chain([{ name: '/s', size, clusterSize: block }], (_at, write) =>
    write(0, new Uint8Array(block).fill(1)),
  )
  await machine.create({ name: '/t', size, clusterSize: block })
  const target = await machine.layer.open('/t', { driver: 'qcow2' }, { write: true, unmap: true })
  const job = await createMirror({
    ...{ node: device.node, target, sync: 'full', jobId: 'j', copyMode: 'write-blocking' },
  })
  job.start()
  await untilReady(job)
  const held = holdFirstWrite(target)
  const first = settled(device.write(0, 4096, new Uint8Array(4096).fill(2)))
  await held.begun
  const second = settled(device.write(2048, 4096, new Uint8Array(4096).fill(3)))
  await turns(50)
  held.letGo()
  await first
  await second
  job.cancelAsBlockJob()
  await job.wait()
  await machine.layer.unref(target)
  expect(Buffer.compare(await machine.contents('/t'), await read(device))).toBe(0)
  await device.close()
})
