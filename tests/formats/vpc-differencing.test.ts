import { describe, expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { type BlockNode, createBlockLayer, denyImplicitFiles } from '../../src/graph/index.js'
import { commitImage, createImage, mapImage, rebaseImage } from '../../src/image/index.js'
import { CrashFiles, type MemoryHost } from '../../src/testing/index.js'
import { createImageAt, filesOf, hostWith, layerOn, memoryHost, seeded } from './format-under-test.js'
import { readAll } from './guest.js'

const blockBytes = 65536
const size = 4 * blockBytes

/** A sealed structure: the one's complement of the sum of its bytes at `at`. */
function seal(bytes: Buffer, at: number): Buffer {
  bytes.writeUInt32BE(0, at)
  bytes.writeUInt32BE(~bytes.reduce((sum, byte) => sum + byte, 0) >>> 0, at)
  return bytes
}

interface Golden {
  readonly uuid: number
  readonly parent?: { readonly uuid: number; readonly locators: readonly (readonly [string, string])[] }
  readonly parentName?: string
  readonly timestamp?: number
  readonly parentTimestamp?: number
  /** Data byte, and sectors of block 1 that are there. */
  readonly fill: number
  readonly sectors: readonly number[]
}

/** A disk of four blocks of 64 KiB, of which the second is in the file, byte by byte. */
function goldenDisk({
  uuid,
  parent,
  parentName = '',
  timestamp = 0,
  parentTimestamp = 0,
  ...how
}: Golden): Buffer {
  const bytes = Buffer.alloc(4096 + 512 + blockBytes + 512)
  const footer = Buffer.alloc(512)
  footer.write('conectix', 0)
  footer.writeUInt32BE(2, 8)
  footer.writeUInt32BE(0x10000, 12)
  footer.writeUInt32BE(512, 20)
  footer.writeUInt32BE(timestamp, 24)
  footer.write('win ', 28)
  footer.writeUInt32BE(size, 44)
  footer.writeUInt32BE(size, 52)
  footer.writeUInt32BE(parent === undefined ? 3 : 4, 60)
  footer.fill(uuid, 68, 84)
  seal(footer, 64)
  const header = Buffer.alloc(1024)
  header.write('cxsparse', 0)
  header.fill(0xff, 8, 16)
  header.writeUInt32BE(1536, 20)
  header.writeUInt32BE(0x10000, 24)
  header.writeUInt32BE(4, 28)
  header.writeUInt32BE(blockBytes, 32)
  if (parent !== undefined) {
    header.fill(parent.uuid, 40, 56)
    header.writeUInt32BE(parentTimestamp, 56)
    Buffer.from(parentName, 'utf16le').swap16().copy(header, 64)
    for (const [i, [code, path]] of parent.locators.entries()) {
      const text = Buffer.from(path, 'utf16le')
      const at = 2048 + i * 512
      header.write(code, 576 + i * 24, 'latin1')
      header.writeUInt32BE(1, 576 + i * 24 + 4)
      header.writeUInt32BE(text.length, 576 + i * 24 + 8)
      header.writeUInt32BE(at, 576 + i * 24 + 20)
      text.copy(bytes, at)
    }
  }
  seal(header, 36)
  footer.copy(bytes, 0)
  header.copy(bytes, 512)
  bytes.fill(0xff, 1536, 2048)
  bytes.writeUInt32BE(4096 / 512, 1536 + 4)
  for (const sector of how.sectors) {
    const at = 4096 + (sector >> 3)
    bytes.writeUInt8(bytes.readUInt8(at) | (0x80 >> (sector & 7)), at)
    bytes.fill(how.fill, 4608 + sector * 512, 4608 + sector * 512 + 512)
  }
  footer.copy(bytes, bytes.length - 512)
  return bytes
}

const all = Array.from({ length: 128 }, (_, index) => index)
const base: Golden = { uuid: 7, fill: 0xb0, sectors: all }

function overlay(locators: readonly (readonly [string, string])[], more: Partial<Golden> = {}): Buffer {
  return goldenDisk({ uuid: 8, parent: { uuid: 7, locators }, fill: 0xc0, sectors: [0, 9, 10, 127], ...more })
}

async function contents(host: MemoryHost, path: string): Promise<Uint8Array> {
  const layer = layerOn(host)
  const node = await layer.open(path, { driver: 'vpc' })
  const bytes = await readAll(node)
  await layer.unref(node)
  return bytes
}

function expected(): Uint8Array {
  const bytes = new Uint8Array(size)
  bytes.fill(0xb0, blockBytes, 2 * blockBytes)
  for (const sector of [0, 9, 10, 127]) {
    bytes.fill(0xc0, blockBytes + sector * 512, blockBytes + sector * 512 + 512)
  }
  return bytes
}

describe('differencing VHDs built byte by byte', () => {
  const places: readonly [string, readonly (readonly [string, string])[], string, Partial<Golden>][] = [
    ['a relative path', [['W2ru', '.\\base.vhd']], '/d/base.vhd', {}],
    ['a relative path to another folder', [['W2ru', '..\\e\\base.vhd']], '/e/base.vhd', {}],
    ['an absolute path', [['W2ku', '/x/base.vhd']], '/x/base.vhd', {}],
    [
      'the absolute path where the relative one is nowhere',
      [
        ['W2ku', '/x/base.vhd'],
        ['W2ru', '.\\gone.vhd'],
      ],
      '/x/base.vhd',
      {},
    ],
    [
      'the relative path where both are there',
      [
        ['W2ku', '/d/over.vhd'],
        ['W2ru', '.\\base.vhd'],
      ],
      '/d/base.vhd',
      {},
    ],
    ['the name in the header', [['W2ku', 'C:\\disks\\base.vhd']], '/d/base.vhd', { parentName: 'base.vhd' }],
    ['a name like a URL', [['W2ru', '.\\nbd:base.vhd']], '/d/nbd:base.vhd', {}],
  ]
  test.each(places)('find their parent by %s', async (_title, locators, place, more) => {
    const host = memoryHost()
    host.put('/d/over.vhd', overlay(locators, more))
    host.put(place, goldenDisk(base))
    expect(Buffer.compare(await contents(host, '/d/over.vhd'), expected())).toBe(0)
  })

  test('map tells whose the sectors are', async () => {
    const host = memoryHost()
    host.put('/over', overlay([['W2ru', '.\\base']]))
    host.put('/base', goldenDisk(base))
    const layer = layerOn(host)
    const node = await layer.open('/over', { driver: 'vpc' })
    const extents = []
    for await (const { start, length, depth, zero } of mapImage(node)) {
      extents.push([start / 512, length / 512, zero ? 'zero' : depth])
    }
    await layer.unref(node)
    expect(extents).toEqual([
      [0, 128, 'zero'],
      [128, 1, 0],
      [129, 8, 1],
      [137, 2, 0],
      [139, 116, 1],
      [255, 1, 0],
      [256, 256, 'zero'],
    ])
  })

  const refused: readonly [string, Buffer, Buffer, RegExp][] = [
    [
      'a parent with another identifier',
      overlay([['W2ru', '.\\base']]),
      goldenDisk({ ...base, uuid: 9 }),
      /Could not open backing file: Parent has another identifier \(09090909-0909-.*07070707-/,
    ],
    ['a parent that is no VHD', overlay([['W2ru', '.\\base']]), Buffer.alloc(4096), /invalid VPC image/],
    ['no parent at all', overlay([]), goldenDisk(base), /does not say where its parent is/],
    [
      'json: as a path',
      overlay([['W2ku', 'json:{"driver":"null-co"}']]),
      goldenDisk(base),
      /json:.*No such file/,
    ],
    ['itself as its parent', overlay([['W2ru', '.\\over']]), goldenDisk(base), /infinite loop/],
    [
      'a locator outside the file',
      (() => {
        const bytes = overlay([['W2ru', '.\\base']])
        bytes.writeUInt32BE(0x7fffffff, 512 + 576 + 8)
        seal(bytes.subarray(512, 1536), 36)
        return bytes
      })(),
      goldenDisk(base),
      /does not say where its parent is/,
    ],
    [
      'a wrong checksum of the header',
      (() => {
        const bytes = overlay([['W2ru', '.\\base']])
        bytes.writeUInt8(1, 512 + 40)
        return bytes
      })(),
      goldenDisk(base),
      /Incorrect dynamic header checksum/,
    ],
  ]
  test.each(refused)('%s is refused', async (_title, over, below, message) => {
    const host = memoryHost()
    host.put('/over', over)
    host.put('/base', below)
    const layer = layerOn(host)
    await expect(layer.open('/over', { driver: 'vpc' }, { write: true })).rejects.toThrow(message)
    expect([...layer.nodes]).toEqual([])
  })

  test('a service that allows no files named by images gets none', async () => {
    const host = memoryHost()
    host.put('/over', overlay([['W2ru', '.\\base']]))
    host.put('/base', goldenDisk(base))
    const layer = createBlockLayer({ host, drivers: allDrivers, implicitFiles: denyImplicitFiles })
    await expect(layer.open('/over', { driver: 'vpc' })).rejects.toThrow(/names '\/base' as its backing/)
    const node = await layer.open('/over', { driver: 'vpc', backing: null })
    expect((await readAll(node)).subarray(blockBytes + 512, blockBytes + 1024)).toEqual(new Uint8Array(512))
    await layer.unref(node)
  })

  test('a parent that is younger than the disk gets a warning', async () => {
    const host = memoryHost()
    host.put('/over', overlay([['W2ru', '.\\base']], { parentTimestamp: 100 }))
    host.put('/base', goldenDisk({ ...base, timestamp: 101 }))
    await contents(host, '/over')
    expect(host.warnings).toEqual([expect.stringContaining("'/base' was created after")])
  })
})

/** `/top` over `/middle` over `/base`, all with random contents, and what the guest sees. */
async function chain(seed: number): Promise<{ host: MemoryHost; guest: Uint8Array }> {
  const random = seeded(seed)
  const host = memoryHost()
  const total = 5 << 20
  const guest = new Uint8Array(total)
  const layer = layerOn(host)
  for (const [path, below] of [
    ['/base', undefined],
    ['/middle', 'base'],
    ['/top', 'middle'],
  ] as const) {
    await createImageAt(host, path, 'vpc', {
      size: total,
      force_size: true,
      ...(below === undefined ? {} : { backing_file: below, backing_fmt: 'vpc' }),
    })
    const node = await layer.open(path, { driver: 'vpc' }, { write: true })
    await scribble(node, guest, random, 12)
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
    const bytes = Math.min(guest.length - at, (1 + Math.floor(random() * 40)) * 512)
    const data = new Uint8Array(bytes).fill(1 + Math.floor(random() * 255))
    await node.write(at, bytes, data, 0, 0)
    guest.set(data, at)
  }
}

describe('chains of VHDs', () => {
  test('read as what was written last, whichever disk has it', async () => {
    for (let seed = 1; seed <= 8; seed++) {
      const { host, guest } = await chain(seed)
      expect(Buffer.compare(await contents(host, '/top'), guest), `seed ${seed}`).toBe(0)
    }
  })

  test('commit writes into the parent and empties the disk', async () => {
    const { host, guest } = await chain(11)
    const layer = layerOn(host)
    await commitImage(layer, { filename: '/top', format: 'vpc' }, {})
    await layer.closeAll()
    expect(Buffer.compare(await contents(host, '/middle'), guest)).toBe(0)
    expect(Buffer.compare(await contents(host, '/top'), guest)).toBe(0)
    expect(host.contents('/top')?.bytes().length).toBeLessThan(8192)
  })

  test('rebase -u records another parent with its identifier', async () => {
    const { host, guest } = await chain(12)
    host.put('/elsewhere/copy', host.contents('/middle')?.bytes() ?? new Uint8Array(0))
    host.put('/elsewhere/base', host.contents('/base')?.bytes() ?? new Uint8Array(0))
    const layer = layerOn(host)
    const change = { backing: 'elsewhere/copy', backingFormat: 'vpc', unsafe: true }
    await rebaseImage(layer, { filename: '/top', format: 'vpc' }, change)
    await layer.closeAll()
    expect(Buffer.compare(await contents(host, '/top'), guest)).toBe(0)
    const node = await layer.open('/top', { driver: 'vpc' })
    expect(node.backingFile).toBe('elsewhere/copy')
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
      { filename: '/top', format: 'vpc' },
      backing === undefined ? {} : { backing, backingFormat: 'vpc' },
    )
    await layer.closeAll()
    expect(Buffer.compare(await contents(host, '/top'), guest)).toBe(0)
    const node = await layer.open('/top', { driver: 'vpc' }, { write: true })
    expect(node.backingFile).toBe(backing ?? '')
    await scribble(node, guest, seeded(3), 5)
    await layer.unref(node)
    expect(Buffer.compare(await contents(host, '/top'), guest)).toBe(0)
  })

  test('a parent that is no VHD, or no file, is refused at creation', async () => {
    const host = memoryHost()
    host.put('/raw', new Uint8Array(65536))
    const layer = layerOn(host)
    const make = (file: string, format: string, options?: string) =>
      createImage(layer, { filename: '/new', format: 'vpc', backing: { file, format }, options })
    await expect(make('raw', 'raw')).rejects.toThrow('backing_file must be a vpc image')
    await expect(make('raw', 'vpc')).rejects.toThrow('invalid VPC image')
    await createImageAt(host, '/base', 'vpc', { size: 1 << 20 })
    await expect(make('base', 'vpc', 'subformat=fixed')).rejects.toThrow(
      "Fixed image can't have backing file",
    )
    await expect(make('file:base', 'vpc')).rejects.toThrow('has to be a plain file')
    expect(host.paths).not.toContain('/new')
  })
})

describe('power cuts', () => {
  test.each([
    ['commit', (host: MemoryHost) => commitImage(layerOn(host), { filename: '/top', format: 'vpc' }, {})],
    [
      'rebase',
      (host: MemoryHost) =>
        rebaseImage(
          layerOn(host),
          { filename: '/top', format: 'vpc' },
          { backing: 'base', backingFormat: 'vpc' },
        ),
    ],
    [
      'rebase to nothing',
      (host: MemoryHost) => rebaseImage(layerOn(host), { filename: '/top', format: 'vpc' }, {}),
    ],
  ])('during %s change nothing that the guest sees', async (_title, act) => {
    const { host, guest } = await chain(21)
    const files = filesOf(host)
    const log = new CrashFiles(files)
    await act(hostWith(files, { log: (operation) => log.record(operation) }))
    const random = seeded(5)
    let tried = 0
    for (const state of log.states({ random, samples: 2 })) {
      if (random() > 60 / (log.length * 5)) {
        continue
      }
      expect(Buffer.compare(await contents(hostWith(state.contents), '/top'), guest)).toBe(0)
      tried++
    }
    expect(tried).toBeGreaterThan(10)
  })
})
