import { describe, expect, test } from 'vitest'
import type { BlockNode } from '../../src/graph/index.js'
import { commitImage, createImage, mapImage, rebaseImage } from '../../src/image/index.js'
import { CrashFiles, type MemoryHost } from '../../src/testing/index.js'
import { createImageAt, filesOf, hostWith, layerOn, memoryHost, seeded } from './format-under-test.js'
import { readAll } from './guest.js'

const MiB = 1 << 20
const size = 4 * MiB

/** CRC-32C, bit by bit. */
function crc(bytes: Uint8Array): number {
  let value = 0xffffffff
  for (const byte of bytes) {
    value ^= byte
    for (let i = 0; i < 8; i++) {
      value = (value >>> 1) ^ (value & 1 ? 0x82f63b78 : 0)
    }
  }
  return ~value >>> 0
}

function seal(bytes: Buffer): Buffer {
  bytes.writeUInt32LE(0, 4)
  bytes.writeUInt32LE(crc(bytes), 4)
  return bytes
}

function guid(text: string): Buffer {
  const bytes = Buffer.from(text.replaceAll('-', ''), 'hex')
  return Buffer.concat([
    bytes.subarray(0, 4).reverse(),
    bytes.subarray(4, 6).reverse(),
    bytes.subarray(6, 8).reverse(),
    bytes.subarray(8),
  ])
}

const parentId = '12345678-9abc-def0-1122-334455667788'

interface Golden {
  readonly id: string
  /** Pairs of the parent locator. */
  readonly locator?: readonly (readonly [string, string])[]
  /** State of each block of 1 MiB, and sectors of block 1 that are there. */
  readonly states: readonly number[]
  readonly sectors?: readonly number[]
  readonly fill: number
}

/** A disk of four blocks of 1 MiB, byte by byte: log at 1 MiB, table at 2, metadata at 3, bitmap at 4, blocks from 5 on. */
function goldenDisk({ id, locator, states, sectors = [], fill }: Golden): Buffer {
  const bytes = Buffer.alloc(9 * MiB)
  bytes.write('vhdxfile', 0)
  for (const [at, sequence] of [
    [0x10000, 1],
    [0x20000, 2],
  ] as const) {
    const header = bytes.subarray(at, at + 4096)
    header.write('head', 0)
    header.writeUInt32LE(sequence, 8)
    guid(id).copy(header, 32)
    header.writeUInt16LE(1, 66)
    header.writeUInt32LE(MiB, 68)
    header.writeUInt32LE(MiB, 72)
    seal(header)
  }
  for (const at of [0x30000, 0x40000]) {
    const table = bytes.subarray(at, at + 0x10000)
    table.write('regi', 0)
    table.writeUInt32LE(2, 8)
    guid('2dc27766-f623-4200-9d64-115e9bfd4a08').copy(table, 16)
    table.writeUInt32LE(2 * MiB, 32)
    table.writeUInt32LE(MiB, 40)
    guid('8b7ca206-4790-4b9a-b8fe-575f050f886e').copy(table, 48)
    table.writeUInt32LE(3 * MiB, 64)
    table.writeUInt32LE(MiB, 72)
    seal(table)
  }
  states.forEach((state, index) => {
    bytes.writeUInt32LE((state >= 6 ? (5 + index) * MiB : 0) + state, 2 * MiB + index * 8)
  })
  // A bitmap covers 4096 blocks of 1 MiB.
  bytes.writeUInt32LE(4 * MiB + 6, 2 * MiB + 4096 * 8)
  const items: [string, Buffer][] = [
    ['caa16737-fa36-4d43-b3b6-33f0aa44e76b', words(MiB, locator === undefined ? 0 : 2)],
    ['2fa54224-cd1b-4876-b211-5dbed83bf4b8', words(size, 0)],
    ['beca12ab-b2e6-4523-93ef-c309e000c746', Buffer.alloc(16)],
    ['8141bf1d-a96f-4709-ba47-f233a8faab5f', words(512)],
    ['cda348c7-445d-4471-9cc9-e9885251c556', words(512)],
  ]
  if (locator !== undefined) {
    items.push(['a8d35f2d-b30b-454d-abf7-d3d84834ab0c', locatorItem(locator)])
  }
  bytes.write('metadata', 3 * MiB)
  bytes.writeUInt16LE(items.length, 3 * MiB + 10)
  let end = 0x10000
  items.forEach(([name, item], index) => {
    const at = 3 * MiB + 32 + index * 32
    guid(name).copy(bytes, at)
    bytes.writeUInt32LE(end, at + 16)
    bytes.writeUInt32LE(item.length, at + 20)
    bytes.writeUInt32LE(4, at + 24)
    item.copy(bytes, 3 * MiB + end)
    end += item.length
  })
  states.forEach((state, index) => {
    if (state === 6) {
      bytes.fill(fill, (5 + index) * MiB, (6 + index) * MiB)
    }
  })
  for (const sector of sectors) {
    const at = 4 * MiB + 256 + (sector >> 3)
    bytes.writeUInt8(bytes.readUInt8(at) | (1 << (sector & 7)), at)
    bytes.fill(fill, 6 * MiB + sector * 512, 6 * MiB + sector * 512 + 512)
  }
  return bytes
}

function words(...values: number[]): Buffer {
  return Buffer.concat(values.map((value) => Buffer.from(Uint32Array.of(value).buffer)))
}

function locatorItem(pairs: readonly (readonly [string, string])[]): Buffer {
  const head = Buffer.alloc(20 + pairs.length * 12)
  guid('b04aefb7-d19e-4a81-b789-25b8e9445913').copy(head)
  head.writeUInt16LE(pairs.length, 18)
  const texts: Buffer[] = []
  let end = head.length
  pairs.forEach((pair, index) => {
    pair.forEach((text, which) => {
      const bytes = Buffer.from(text, 'utf16le')
      head.writeUInt32LE(end, 20 + index * 12 + which * 4)
      head.writeUInt16LE(bytes.length, 20 + index * 12 + 8 + which * 2)
      texts.push(bytes)
      end += bytes.length
    })
  })
  return Buffer.concat([head, ...texts])
}

const base = goldenDisk({ id: parentId, states: [0, 6, 6, 6], fill: 0xb0 })
const own = [0, 9, 10, 2047]

function overlay(locator: readonly (readonly [string, string])[], more: Partial<Golden> = {}): Buffer {
  const id = '00000000-0000-0000-0000-000000000001'
  return goldenDisk({ id, locator, states: [0, 7, 2, 0], sectors: own, fill: 0xc0, ...more })
}

const linkage = ['parent_linkage', `{${parentId}}`] as const

async function contents(host: MemoryHost, path: string): Promise<Uint8Array> {
  const layer = layerOn(host)
  const node = await layer.open(path, { driver: 'vhdx' })
  const bytes = await readAll(node)
  await layer.unref(node)
  return bytes
}

function expected(): Uint8Array {
  const bytes = new Uint8Array(size)
  bytes.fill(0xb0, MiB, 2 * MiB)
  bytes.fill(0xb0, 3 * MiB)
  for (const sector of own) {
    bytes.fill(0xc0, MiB + sector * 512, MiB + sector * 512 + 512)
  }
  return bytes
}

describe('differencing VHDX built byte by byte', () => {
  const places: readonly [string, readonly (readonly [string, string])[], string][] = [
    ['a relative path', [linkage, ['relative_path', '.\\base.vhdx']], '/d/base.vhdx'],
    ['a path to another folder', [linkage, ['relative_path', '..\\e\\base.vhdx']], '/e/base.vhdx'],
    ['an absolute path', [linkage, ['absolute_win32_path', '/x/base.vhdx']], '/x/base.vhdx'],
    [
      'the absolute path where the relative one is nowhere',
      [linkage, ['relative_path', '.\\gone'], ['absolute_win32_path', '/x/base.vhdx']],
      '/x/base.vhdx',
    ],
    [
      'the file of the absolute path beside the image',
      [linkage, ['absolute_win32_path', 'C:\\disks\\base.vhdx']],
      '/d/base.vhdx',
    ],
    [
      'a relative path, whatever the volume',
      [
        ['volume_path', '\\\\?\\Volume{1}\\base.vhdx'],
        ['relative_path', 'base.vhdx'],
        ['parent_linkage', `{${parentId.toUpperCase()}}`],
      ],
      '/d/base.vhdx',
    ],
    [
      'the second identifier',
      [
        ['parent_linkage', '{00000000-0000-0000-0000-000000000009}'],
        ['parent_linkage2', `{${parentId}}`],
        ['relative_path', 'base.vhdx'],
      ],
      '/d/base.vhdx',
    ],
  ]
  test.each(places)('find their parent by %s', async (_title, locator, place) => {
    const host = memoryHost()
    host.put('/d/over.vhdx', overlay(locator))
    host.put(place, base)
    expect(Buffer.compare(await contents(host, '/d/over.vhdx'), expected())).toBe(0)
  })

  test('map tells whose the sectors are', async () => {
    const host = memoryHost()
    host.put('/over', overlay([linkage, ['relative_path', 'base']]))
    host.put('/base', base)
    const layer = layerOn(host)
    const node = await layer.open('/over', { driver: 'vhdx' })
    const extents = []
    for await (const { start, length, depth, zero } of mapImage(node)) {
      extents.push([start / 512, length / 512, zero ? 'zero' : depth])
    }
    await layer.unref(node)
    expect(extents).toEqual([
      [0, 2048, 'zero'],
      [2048, 1, 0],
      [2049, 8, 1],
      [2057, 2, 0],
      [2059, 2036, 1],
      [4095, 1, 0],
      [4096, 2048, 'zero'],
      [6144, 2048, 1],
    ])
  })

  const refused: readonly [string, Buffer, Buffer, RegExp][] = [
    [
      'a parent with another identifier',
      overlay([linkage, ['relative_path', 'base']]),
      goldenDisk({ id: '99999999-9999-9999-9999-999999999999', states: [0, 0, 0, 0], fill: 1 }),
      /Parent has another identifier \(\{99999999-.*\{12345678-/,
    ],
    [
      'a locator without identifiers',
      overlay([['relative_path', 'base']]),
      base,
      /another identifier .* recorded \(none\)/,
    ],
    ['a locator without paths', overlay([linkage]), base, /does not say where its parent is/],
    ['json: as a path', overlay([linkage, ['relative_path', 'json:{}']]), base, /json:.*No such file/],
    ['itself as its parent', overlay([linkage, ['relative_path', 'over']]), base, /infinite loop/],
    [
      'a bitmap outside the file',
      (() => {
        const bytes = overlay([linkage, ['relative_path', 'base']])
        bytes.writeUInt32LE(0x40000000 + 6, 2 * MiB + 4096 * 8)
        return bytes
      })(),
      base,
      /Invalid argument/,
    ],
    [
      'a locator whose text is outside of it',
      (() => {
        const bytes = overlay([linkage, ['relative_path', 'base']])
        const at = bytes.indexOf(guid('b04aefb7-d19e-4a81-b789-25b8e9445913'))
        bytes.writeUInt32LE(0x7ffffff0, at + 24)
        return bytes
      })(),
      base,
      /Invalid argument/,
    ],
  ]
  test.each(refused)('%s is refused', async (_title, over, below, message) => {
    const host = memoryHost()
    host.put('/over', over)
    host.put('/base', below)
    const layer = layerOn(host)
    await expect(layer.open('/over', { driver: 'vhdx' }, { write: true })).rejects.toThrow(message)
    expect([...layer.nodes]).toEqual([])
  })

  test('a partial block whose bitmap is missing cannot be read', async () => {
    const host = memoryHost()
    const bytes = overlay([linkage, ['relative_path', 'base']])
    bytes.writeUInt32LE(0, 2 * MiB + 4096 * 8)
    host.put('/over', bytes)
    host.put('/base', base)
    await expect(contents(host, '/over')).rejects.toThrow('Input/output error')
  })
})

/** `/top` over `/middle` over `/base`, all with random contents, and what the guest sees. */
async function chain(seed: number, writes = 12): Promise<{ host: MemoryHost; guest: Uint8Array }> {
  const random = seeded(seed)
  const host = memoryHost()
  const guest = new Uint8Array(size)
  const layer = layerOn(host)
  for (const [path, below] of [
    ['/base', undefined],
    ['/middle', 'base'],
    ['/top', 'middle'],
  ] as const) {
    await createImage(layer, {
      filename: path,
      format: 'vhdx',
      size,
      options: 'block_size=1M',
      ...(below === undefined ? {} : { backing: { file: below, format: 'vhdx' } }),
    })
    const node = await layer.open(path, { driver: 'vhdx' }, { write: true })
    await scribble(node, guest, random, writes)
    await layer.unref(node)
  }
  return { host, guest }
}

async function scribble(
  node: BlockNode,
  guest: Uint8Array,
  random: () => number,
  writes: number,
): Promise<void> {
  for (let i = 0; i < writes; i++) {
    const at = Math.floor(random() * (guest.length / 512)) * 512
    const bytes = Math.min(guest.length - at, (1 + Math.floor(random() * 60)) * 512)
    if (random() < 0.15) {
      const block = Math.floor(at / MiB) * MiB
      await node.writeZeroes(block, MiB, 4)
      guest.fill(0, block, block + MiB)
    } else {
      const data = new Uint8Array(bytes).fill(1 + Math.floor(random() * 255))
      await node.write(at, bytes, data, 0, 0)
      guest.set(data, at)
    }
    if (random() < 0.2) {
      await node.flush()
    }
  }
}

describe('chains of VHDX', () => {
  test('read as what was written last, whichever disk has it', async () => {
    for (let seed = 1; seed <= 6; seed++) {
      const { host, guest } = await chain(seed, 25)
      expect(Buffer.compare(await contents(host, '/top'), guest), `seed ${seed}`).toBe(0)
    }
  })

  test('commit writes into the parent, empties the disk, and both still know each other', async () => {
    const { host, guest } = await chain(11)
    for (let round = 0; round < 2; round++) {
      const layer = layerOn(host)
      await commitImage(layer, { filename: '/top', format: 'vhdx' }, {})
      await layer.closeAll()
      expect(Buffer.compare(await contents(host, '/middle'), guest)).toBe(0)
      expect(Buffer.compare(await contents(host, '/top'), guest)).toBe(0)
      expect(host.contents('/top')?.bytes().length).toBe(4 * MiB)
      const node = await layer.open('/top', { driver: 'vhdx' }, { write: true })
      await scribble(node, guest, seeded(round + 50), 6)
      await layer.unref(node)
      expect(Buffer.compare(await contents(host, '/top'), guest)).toBe(0)
    }
  })

  test('a parent that was written to by others is refused', async () => {
    const { host } = await chain(14)
    const layer = layerOn(host)
    const node = await layer.open('/middle', { driver: 'vhdx' }, { write: true })
    await node.write(0, 512, new Uint8Array(512), 0, 0)
    await layer.unref(node)
    await expect(layer.open('/top', { driver: 'vhdx' })).rejects.toThrow('or was written to')
  })

  test('rebase -u records another parent with its identifier', async () => {
    const { host, guest } = await chain(12)
    for (const name of ['middle', 'base']) {
      host.put(`/elsewhere/${name}`, host.contents(`/${name}`)?.bytes() ?? new Uint8Array(0))
    }
    const layer = layerOn(host)
    const change = { backing: 'elsewhere/middle', backingFormat: 'vhdx', unsafe: true }
    await rebaseImage(layer, { filename: '/top', format: 'vhdx' }, change)
    await layer.closeAll()
    expect(Buffer.compare(await contents(host, '/top'), guest)).toBe(0)
    const node = await layer.open('/top', { driver: 'vhdx' })
    expect(node.backingFile).toBe('elsewhere/middle')
    await layer.unref(node)
  })

  test.each([
    ['base', 'base'],
    ['nothing', undefined],
  ])('rebase to %s keeps what the guest sees', async (_title, backing) => {
    const { host, guest } = await chain(13)
    const layer = layerOn(host)
    await rebaseImage(
      layer,
      { filename: '/top', format: 'vhdx' },
      backing === undefined ? {} : { backing, backingFormat: 'vhdx' },
    )
    await layer.closeAll()
    expect(Buffer.compare(await contents(host, '/top'), guest)).toBe(0)
    const node = await layer.open('/top', { driver: 'vhdx' }, { write: true })
    expect(node.backingFile).toBe(backing ?? '')
    await scribble(node, guest, seeded(3), 5)
    await layer.unref(node)
    expect(Buffer.compare(await contents(host, '/top'), guest)).toBe(0)
  })

  test('a disk after dropping its parent in the same session takes writes', async () => {
    const { host, guest } = await chain(15)
    const layer = layerOn(host)
    const node = await layer.open('/top', { driver: 'vhdx', backing: null }, { write: true })
    const own = await readAll(node)
    await node.state?.changeBacking?.(undefined, undefined)
    await scribble(node, own, seeded(4), 8)
    await layer.unref(node)
    expect(Buffer.compare(await contents(host, '/top'), own)).toBe(0)
    expect(guest.length).toBe(own.length)
  })

  test('a parent that is no VHDX, or no file, is refused at creation', async () => {
    const host = memoryHost()
    host.put('/raw', new Uint8Array(65536))
    const layer = layerOn(host)
    const make = (file: string, format: string, options?: string) =>
      createImage(layer, { filename: '/new', format: 'vhdx', backing: { file, format }, options })
    await expect(make('raw', 'raw')).rejects.toThrow('backing_file must be a vhdx image')
    await expect(make('raw', 'vhdx')).rejects.toThrow('Invalid argument')
    await createImageAt(host, '/base', 'vhdx', { size: MiB })
    await expect(make('base', 'vhdx', 'subformat=fixed')).rejects.toThrow(
      "Fixed image can't have backing file",
    )
    await expect(make('base', 'vhdx', 'block_state_zero=on')).rejects.toThrow('would hide the backing file')
    await expect(make('file:base', 'vhdx')).rejects.toThrow('has to be a plain file')
    expect(host.paths).not.toContain('/new')
  })
})

describe('power cuts', () => {
  test.each([
    ['commit', (host: MemoryHost) => commitImage(layerOn(host), { filename: '/top', format: 'vhdx' }, {})],
    [
      'rebase',
      (host: MemoryHost) =>
        rebaseImage(
          layerOn(host),
          { filename: '/top', format: 'vhdx' },
          { backing: 'base', backingFormat: 'vhdx' },
        ),
    ],
    [
      'rebase to nothing',
      (host: MemoryHost) => rebaseImage(layerOn(host), { filename: '/top', format: 'vhdx' }, {}),
    ],
  ])('during %s change nothing that the guest sees', async (_title, act) => {
    const { host, guest } = await chain(21, 4)
    const files = filesOf(host)
    const log = new CrashFiles(files)
    await act(hostWith(files, { log: (operation) => log.record(operation) }))
    const random = seeded(5)
    let tried = 0
    for (const state of log.states({ random, samples: 2 })) {
      if (random() > 12 / (log.length * 5)) {
        continue
      }
      const after = hostWith(state.contents)
      const layer = layerOn(after)
      // A log of the upper disk is replayed first, as by any use of it.
      await layer.unref(await layer.open('/top', { driver: 'vhdx' }, { write: true }))
      expect(Buffer.compare(await contents(after, '/top'), guest)).toBe(0)
      tried++
    }
    expect(tried).toBeGreaterThan(3)
  })
})
