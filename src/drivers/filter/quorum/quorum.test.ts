import { describe, expect, test } from 'vitest'
import {
  addChild,
  Backend,
  type BlockEvent,
  type BlockLayer,
  checkToReplaceNode,
  createBlockLayer,
  removeChild,
} from '../../../graph/index.js'
import { BlockStatus } from '../../../io/index.js'
import type { OptionTree } from '../../../options/index.js'
import { MemoryHost, type MemoryOperation } from '../../../testing/index.js'
import { raw } from '../../format/raw/index.js'
import { file } from '../../protocol/file/index.js'
import { quorum } from './index.js'

const content = (bytes: number, seed = 0): Uint8Array =>
  Uint8Array.from({ length: bytes }, (_, i) => (i + seed) % 253)

const child = (index: number): OptionTree => ({
  driver: 'raw',
  'node-name': `n${index}`,
  file: { driver: 'file', filename: `/${index}` },
})

interface Setup {
  readonly host: MemoryHost
  readonly layer: BlockLayer
  readonly events: BlockEvent[]
  /** Files that fail, with the operation. */
  readonly broken: Set<string>
  open(children: number, options: OptionTree): Promise<Backend>
}

function setup(): Setup {
  const broken = new Set<string>()
  const fault = ({ kind, path }: MemoryOperation) => (broken.has(`${kind} ${path}`) ? 'ENOSPC' : undefined)
  const host = new MemoryHost({ fault })
  for (let index = 0; index < 4; index++) {
    host.put(`/${index}`, content(4096))
  }
  const layer = createBlockLayer({ host, drivers: [quorum, raw, file] })
  const events: BlockEvent[] = []
  layer.events.on((event) => events.push(event))
  const open = (children: number, options: OptionTree): Promise<Backend> => {
    const list = Array.from({ length: children }, (_, index) => child(index))
    const all = { driver: 'quorum', 'node-name': 'q', children: list, ...options }
    return Backend.open(layer, undefined, all, { write: true, unmap: true })
  }
  return { host, layer, events, broken, open }
}

const bad = (type: string, node: string, sector: number, sectors: number, error?: string): BlockEvent => ({
  event: 'QUORUM_REPORT_BAD',
  data: {
    type,
    ...(error === undefined ? {} : { error }),
    'node-name': node,
    'sector-num': sector,
    'sectors-count': sectors,
  },
})

describe('reads', () => {
  test('the majority counts, the others are reported', async () => {
    const { host, events, open } = setup()
    const image = await open(3, { 'vote-threshold': 2 })
    host.contents('/0')?.write(600, Uint8Array.of(255))
    const buffer = new Uint8Array(1024)
    await image.read(0, 1024, buffer)
    expect(buffer).toEqual(content(1024))
    expect(events).toEqual([bad('read', 'n0', 0, 2)])
    expect(host.contents('/0')?.bytes()[600]).toBe(255)
    await image.close()
  })

  test('without a majority there is no answer', async () => {
    const { host, events, open } = setup()
    const image = await open(3, { 'vote-threshold': 2 })
    host.contents('/0')?.write(600, Uint8Array.of(255))
    host.contents('/1')?.write(600, Uint8Array.of(254))
    await expect(image.read(512, 512, new Uint8Array(512))).rejects.toMatchObject({ code: 'EIO' })
    expect(events).toEqual([
      { event: 'QUORUM_FAILURE', data: { reference: 'q', 'sector-num': 1, 'sectors-count': 1 } },
    ])
    await image.close()
  })

  test('the outvoted can be corrected', async () => {
    const { host, open } = setup()
    const image = await open(3, { 'vote-threshold': 2, 'rewrite-corrupted': true })
    host.contents('/2')?.write(600, Uint8Array.of(255))
    await image.read(512, 512, new Uint8Array(512))
    expect(host.contents('/2')?.bytes()).toEqual(content(4096))
    await image.close()
  })

  test('children that fail have no vote', async () => {
    const { events, broken, open } = setup()
    const image = await open(3, { 'vote-threshold': 2 })
    broken.add('read /1')
    const buffer = new Uint8Array(512)
    await image.read(0, 512, buffer)
    expect(buffer).toEqual(content(512))
    expect(events.splice(0)).toEqual([bad('read', 'n1', 0, 1, 'No space left on device')])
    broken.add('read /2')
    await expect(image.read(0, 512, buffer)).rejects.toMatchObject({ code: 'ENOSPC' })
    expect(events.map(({ event }) => event)).toEqual([
      'QUORUM_REPORT_BAD',
      'QUORUM_REPORT_BAD',
      'QUORUM_FAILURE',
    ])
    await image.close()
  })

  test('fifo: the first that answers', async () => {
    const { host, events, broken, open } = setup()
    const image = await open(3, { 'vote-threshold': 2, 'read-pattern': 'fifo' })
    host.contents('/1')?.write(0, Uint8Array.of(255))
    broken.add('read /0')
    const buffer = new Uint8Array(512)
    await image.read(0, 512, buffer)
    expect(buffer[0]).toBe(255)
    expect(events).toEqual([bad('read', 'n0', 0, 1, 'No space left on device')])
    broken.add('read /1')
    broken.add('read /2')
    await expect(image.read(0, 512, buffer)).rejects.toMatchObject({ code: 'ENOSPC' })
    await image.close()
  })

  test('verify mode ends the program at a difference', async () => {
    const { host, open } = setup()
    const image = await open(2, { 'vote-threshold': 2, blkverify: true })
    host.contents('/1')?.write(700, Uint8Array.of(255))
    await expect(image.read(512, 512, new Uint8Array(512))).rejects.toThrow(
      'quorum: offset=512 bytes=512 contents mismatch at offset 700',
    )
    await image.close()
  })
})

describe('changes', () => {
  test('go to all children; enough of them must take them', async () => {
    const { host, events, broken, open } = setup()
    const image = await open(3, { 'vote-threshold': 2 })
    await image.write(0, 512, new Uint8Array(512).fill(9))
    await image.writeZeroes(512, 512)
    const expected = content(4096).fill(9, 0, 512).fill(0, 512, 1024)
    for (const name of ['/0', '/1', '/2']) {
      expect(host.contents(name)?.bytes()).toEqual(expected)
    }
    broken.add('write /0')
    await image.write(0, 512, new Uint8Array(512))
    expect(events.splice(0)).toEqual([bad('write', 'n0', 0, 1, 'No space left on device')])
    broken.add('write /1')
    await expect(image.write(0, 512, new Uint8Array(512))).rejects.toMatchObject({ code: 'ENOSPC' })
    broken.clear()
    broken.add('flush /2')
    await image.flush()
    expect(events.at(-1)).toEqual(bad('flush', 'n2', 0, 0, 'No space left on device'))
    broken.add('flush /1')
    await image.write(0, 512, new Uint8Array(512))
    await expect(image.flush()).rejects.toMatchObject({ code: 'ENOSPC' })
    // Files do not forget that a flush failed.
    await image.close().catch(() => undefined)
  })

  test('status: zero where all are', async () => {
    const { host, open } = setup()
    for (const name of ['/0', '/1']) {
      host.put(name).truncate(1 << 20)
    }
    host.contents('/0')?.write(131072, content(65536))
    const image = await open(2, { 'vote-threshold': 1 })
    const status = new BlockStatus()
    await image.node.status(0, 1 << 20, 'zero', status)
    expect([status.bytes, status.zero, status.data]).toEqual([131072, true, false])
    await image.node.status(131072, 917504, 'zero', status)
    expect([status.data, status.zero, status.offsetValid]).toEqual([true, false, false])
    await image.close()
  })

  test('children come and go', async () => {
    const { layer, host, open } = setup()
    const image = await open(2, { 'vote-threshold': 2 })
    const { node } = image
    await expect(removeChild(node, 'children.0')).rejects.toThrow(
      'The number of children cannot be lower than the vote threshold 2',
    )
    const third = await layer.open(undefined, child(2), { write: true })
    await addChild(node, third)
    await expect(addChild(node, third)).rejects.toThrow('The node n2 already has a parent')
    await layer.unref(third)
    await image.write(0, 1, Uint8Array.of(200))
    expect(host.contents('/2')?.bytes()[0]).toBe(200)
    expect(checkToReplaceNode(node, 'n2')).toBe(third)
    await removeChild(node, 'children.0')
    await image.write(0, 1, Uint8Array.of(201))
    expect(host.contents('/0')?.bytes()[0]).toBe(200)
    expect(node.children.map(({ name }) => name)).toEqual(['children.1', 'children.2'])
    await expect(removeChild(node, 'children.0')).rejects.toThrow(
      'The node q does not have a child named children.0',
    )
    await expect(addChild(third, node)).rejects.toThrow('The node n2 does not support adding a child')
    await expect(removeChild(third, 'file')).rejects.toThrow('The node n2 does not support removing a child')
    await image.close()
  })

  test('nobody else may change the children', async () => {
    const { open } = setup()
    const image = await open(2, { 'vote-threshold': 1 })
    expect(image.node.children.map(({ shared }) => shared & 2)).toEqual([0, 0])
    await image.close()
  })
})

test('lengths must be the same', async () => {
  const { host, open } = setup()
  host.put('/1', content(512))
  await expect(open(2, { 'vote-threshold': 1 })).rejects.toThrow(
    'Could not refresh total sector count: Input/output error',
  )
})

test.each([
  [{}, "Parameter 'vote-threshold' expects a value >= 1"],
  [{ 'vote-threshold': 3 }, 'threshold may not exceed children count'],
  [{ 'vote-threshold': 1, 'read-pattern': 'x' }, 'Please set read-pattern as fifo or quorum'],
  [
    { 'vote-threshold': 1, blkverify: true },
    'blkverify=on can only be set if there are exactly two files and vote-threshold is 2',
  ],
  [
    { 'vote-threshold': 2, blkverify: true, 'rewrite-corrupted': true },
    'rewrite-corrupted=on cannot be used with blkverify=on',
  ],
])('%j is refused', async (options, text) => {
  await expect(setup().open(2, options)).rejects.toThrow(text)
})
