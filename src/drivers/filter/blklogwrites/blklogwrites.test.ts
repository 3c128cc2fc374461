import { describe, expect, test } from 'vitest'
import { Backend, type BlockLayer, createBlockLayer } from '../../../graph/index.js'
import type { OptionTree } from '../../../options/index.js'
import { MemoryHost } from '../../../testing/index.js'
import { raw } from '../../format/raw/index.js'
import { file } from '../../protocol/file/index.js'
import { decodeEntry, decodeSuperblock, encodeSuperblock } from './format.js'
import { blklogwrites } from './index.js'

function setup(): { host: MemoryHost; layer: BlockLayer; open: (more?: OptionTree) => Promise<Backend> } {
  const host = new MemoryHost()
  host.put('/img', new Uint8Array(8192).fill(7))
  host.put('/log')
  const layer = createBlockLayer({ host, drivers: [blklogwrites, raw, file] })
  const open = (more: OptionTree = {}): Promise<Backend> => {
    const options = {
      driver: 'blklogwrites',
      file: { driver: 'file', filename: '/img' },
      log: { driver: 'file', filename: '/log' },
      ...more,
    }
    return Backend.open(layer, undefined, options, { write: true, unmap: true })
  }
  return { host, layer, open }
}

/** The entries of a log: sector, sectors, flags, and the first byte of the data. */
function entriesOf(log: Uint8Array): number[][] {
  const { entries, sectorSize } = decodeSuperblock(log)
  const list: number[][] = []
  let sector = 1
  for (let index = 0; index < entries; index++) {
    const entry = decodeEntry(log.subarray(sector * sectorSize))
    const data = (entry.flags & 4) === 0 ? entry.sectors : 0
    list.push([
      entry.sector,
      entry.sectors,
      entry.flags,
      data === 0 ? -1 : (log[(sector + 1) * sectorSize] ?? -2),
    ])
    sector += 1 + data
  }
  return list
}

test('every change is in the log', async () => {
  const { host, open } = setup()
  const image = await open({ discard: 'unmap' })
  await image.write(512, 1024, new Uint8Array(1024).fill(1))
  await image.writeZeroes(0, 512)
  await image.discard(4096, 4096)
  await image.write(5, 1, Uint8Array.of(9))
  await image.flush()
  const log = host.contents('/log')?.bytes() ?? new Uint8Array(0)
  expect(entriesOf(log)).toEqual([
    [1, 2, 0, 1],
    [0, 1, 0, 0],
    [8, 8, 4, -1],
    [0, 1, 0, 0],
    [0, 0, 1, -1],
  ])
  const contents = host.contents('/img')?.bytes()
  expect([contents?.[5], contents?.[512], contents?.[4096]]).toEqual([9, 1, 0])
  await image.close()
})

test('the superblock is written at intervals, and logs go on', async () => {
  const { host, open } = setup()
  const sectors = (n: number): Uint8Array => new Uint8Array(512).fill(n)
  const image = await open({ 'log-super-update-interval': 2 })
  for (let n = 1; n <= 3; n++) {
    await image.write(512 * n, 512, sectors(n))
  }
  const log = (): Uint8Array => host.contents('/log')?.bytes() ?? new Uint8Array(0)
  expect(entriesOf(log())).toEqual([
    [1, 1, 0, 1],
    [2, 1, 0, 2],
  ])
  await image.close()
  expect(entriesOf(log()).map(([, , flags]) => flags)).toEqual([0, 0, 0, 1])
  const more = await open({ 'log-append': true })
  await more.write(2048, 512, sectors(4))
  await more.flush()
  expect(entriesOf(log()).map((entry) => entry[3])).toEqual([1, 2, 3, -1, 4, -1])
  await more.close()
})

test('requests are whole log sectors', async () => {
  const { host, open } = setup()
  const image = await open({ 'log-sector-size': 4096 })
  await image.write(100, 1, Uint8Array.of(1))
  await image.flush()
  expect(entriesOf(host.contents('/log')?.bytes() ?? new Uint8Array(0))).toEqual([
    [0, 1, 0, 7],
    [0, 0, 1, -1],
  ])
  await image.close()
})

describe('hostile logs', () => {
  const refused = async (log: Uint8Array): Promise<string> => {
    const { host, open } = setup()
    host.put('/log', log)
    try {
      await (await open({ 'log-append': true })).close()
    } catch (error) {
      return (error as Error).message
    }
    return ''
  }
  const superblock = (change: (view: DataView) => void): Uint8Array => {
    const bytes = encodeSuperblock({ entries: 1, sectorSize: 512 })
    change(new DataView(bytes.buffer))
    return bytes
  }

  test('are refused', async () => {
    expect(await refused(Uint8Array.of(1, 2, 3))).toBe('Invalid log superblock magic')
    expect(await refused(superblock((view) => view.setBigUint64(8, 2n, true)))).toBe(
      'Unsupported log version 2',
    )
    for (const size of [0, 16, 513, 1 << 24, 2 ** 32 - 1]) {
      expect(await refused(superblock((view) => view.setUint32(24, size, true)))).toBe(
        `Invalid log sector size ${size}`,
      )
    }
    expect(await refused(superblock((view) => view.setBigUint64(16, 2n ** 63n, true)))).toBe(
      'Invalid log entry',
    )
    const far = new Uint8Array(2048)
    far.set(encodeSuperblock({ entries: 2, sectorSize: 512 }))
    new DataView(far.buffer).setBigUint64(512 + 8, 2n ** 62n, true)
    expect(await refused(far)).toBe('Invalid log entry')
  })
})

test.each([
  [{ 'log-sector-size': 100 }, 'Invalid log sector size 100'],
  [{ 'log-append': true, 'log-sector-size': 512 }, 'log-append and log-sector-size are mutually exclusive'],
  [{ 'log-super-update-interval': 0 }, 'Invalid log superblock update interval 0'],
])('%j is refused', async (options, text) => {
  await expect(setup().open(options)).rejects.toThrow(text)
})
