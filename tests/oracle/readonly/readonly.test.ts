import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { buildBochs } from '../../formats/built/bochs.js'
import { buildCloop } from '../../formats/built/cloop.js'
import { sampleDisk } from '../../formats/built/disk.js'
import { buildDmg } from '../../formats/built/dmg.js'
import { ours, theirs } from '../io/qemu-io.js'
import { damaged, type Range } from './damage.js'

/** Formats that are only read, and that qemu-img cannot create: images built here, judged by qemu-io. */

const full = process.env.BLOCKGRAPH_FULL_MATRIX !== undefined
/** Damaged images of each format. */
const corpus = full ? 400 : 100

let folder = ''

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'blockgraph-readonly-'))
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

const disk = sampleDisk(150 * 512)

interface Sample {
  readonly format: string
  readonly title: string
  readonly image: Uint8Array
  readonly damage: readonly Range[]
}

const plist = buildDmg(disk, { kinds: ['zlib', 'raw', 'zlib'], chunkBytes: 4096 })
const resources = buildDmg(disk, {
  layout: 'resources',
  lists: 3,
  chunkBytes: 1024,
  odd: 77,
  dataForkOffset: 512,
})

const samples: Sample[] = [
  {
    format: 'dmg',
    title: 'property list',
    image: plist,
    damage: [
      [0, 2000],
      [plist.length - 512, plist.length],
    ],
  },
  {
    format: 'dmg',
    title: 'resource fork',
    image: resources,
    damage: [
      [resources.length - 512, resources.length],
      [resources.length - 7000, resources.length - 6000],
      [resources.length - 7000, resources.length - 512],
    ],
  },
  {
    format: 'bochs',
    title: 'version 2',
    image: buildBochs(disk),
    damage: [
      [0, 96],
      [512, 600],
    ],
  },
  {
    format: 'bochs',
    title: 'version 1, small extents, catalog larger than the disk',
    image: buildBochs(disk, { version: 1, extentBytes: 1024, catalogEntries: 200 }),
    damage: [
      [64, 100],
      [512, 900],
    ],
  },
  {
    format: 'bochs',
    title: 'bitmaps larger than they need to be',
    image: buildBochs(disk, { extentBytes: 4096, bitmapBytes: 1024 }),
    damage: [[64, 100]],
  },
  {
    format: 'cloop',
    title: 'blocks of 16 KiB',
    image: buildCloop(disk),
    damage: [
      [128, 136],
      [136, 180],
      [180, 600],
    ],
  },
  {
    format: 'cloop',
    title: 'blocks of 512 bytes',
    image: buildCloop(disk, 512),
    damage: [
      [128, 136],
      [136, 1400],
    ],
  },
]

/** What is asked of each image: openings that are refused, sizes, and bytes. */
const reads = [
  'length',
  'read -v 0 4k',
  'read -v 30k 20k',
  'read -v 70000 512',
  'read -v 3 1000',
  'read 76288 512',
  'read -P 0 1M 512',
]

async function same(sample: Sample, name: string, flags: readonly string[] = ['-r']): Promise<void> {
  const argv = [...flags, ...reads.flatMap((command) => ['-c', command]), name]
  expect(await ours(argv, folder), sample.title).toEqual(theirs(argv, folder))
}

describe.each(samples)('$format: $title', (sample) => {
  const { format, image } = sample
  const name = `image.${format}`

  test('reads the same, probed and not', async () => {
    writeFileSync(join(folder, name), image)
    await same(sample, name)
    await same(sample, name, ['-r', '-f', format])
  })

  test('is not opened for writing', async () => {
    writeFileSync(join(folder, name), image)
    await same(sample, name, ['-f', format])
    const options = `driver=${format},auto-read-only=on,file.filename=${name}`
    await same(sample, options, ['--image-opts'])
  })

  test(`${corpus} damaged images are refused or read in the same way`, async () => {
    for (let seed = 0; seed < corpus; seed++) {
      writeFileSync(join(folder, name), damaged(image, sample.damage, seed))
      const argv = ['-r', '-f', format, ...reads.flatMap((command) => ['-c', command]), name]
      expect(await ours(argv, folder), `seed ${seed}`).toEqual(theirs(argv, folder))
    }
  })
})
