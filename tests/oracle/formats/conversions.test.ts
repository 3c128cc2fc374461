import fs from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { allDrivers } from '../../../src/all-drivers.js'
import { convertImage } from '../../../src/image/index.js'
import { Workshop } from '../image/qemu.js'

/**
 * A file system converted from each format into each other one, with QEMU as the judge. The table in
 * docs/formats/README.md is what comes out (`npm run format-docs` writes it).
 */
const document = fileURLToPath(new URL('../../../docs/formats/README.md', import.meta.url))
const size = 64 << 20

/** One or more variants of each format that can be created, by the names they have in the table. */
const variants: readonly [name: string, format: string, options?: string][] = [
  ['raw', 'raw'],
  ['qcow2', 'qcow2'],
  ['qcow2 zstd', 'qcow2', 'compression_type=zstd'],
  ['vdi', 'vdi'],
  ['vdi static', 'vdi', 'static=on'],
  ['vmdk', 'vmdk'],
  ['vmdk flat', 'vmdk', 'subformat=monolithicFlat'],
  ['vmdk stream', 'vmdk', 'subformat=streamOptimized'],
  ['vpc', 'vpc', 'force_size=on'],
  ['vpc fixed', 'vpc', 'force_size=on,subformat=fixed'],
  ['vhdx', 'vhdx'],
  ['vhdx fixed', 'vhdx', 'subformat=fixed'],
  ['parallels', 'parallels'],
  ['qcow', 'qcow'],
  ['qed', 'qed'],
]

const shop = new Workshop()

beforeAll(() => {
  const tree = shop.path('tree')
  fs.mkdirSync(tree)
  let state = 1
  for (let i = 0; i < 40; i++) {
    const bytes = Uint8Array.from({ length: 20_000 + i * 3001 }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      return i % 2 === 0 ? state >>> 24 : 65 + (state >>> 29)
    })
    fs.writeFileSync(`${tree}/file-${i}`, bytes)
  }
  shop.run('mke2fs', '-q', '-t', 'ext4', '-d', tree, shop.path('source.raw'), `${size >> 20}M`)
})

afterAll(async () => {
  await shop.clear()
})

const fileOf = (name: string): string => shop.path(`from-${name.replaceAll(' ', '-')}`)

async function convert(from: [string, string], to: [string, string], options?: string): Promise<void> {
  await convertImage(shop.layer, {
    sources: [{ filename: from[0], format: from[1] }],
    target: to[0],
    format: to[1],
    options,
    compress: options === 'compression_type=zstd',
  })
}

const results = new Map<string, Set<string>>()

test.each(variants)(
  '%s into every other format',
  async (name, format, options) => {
    const source = fileOf(name)
    await convert([shop.path('source.raw'), 'raw'], [source, format], options)
    const done = new Set<string>()
    for (const [target, targetFormat, targetOptions] of variants) {
      const path = shop.path(`into-${target.replaceAll(' ', '-')}`)
      await convert([source, format], [path, targetFormat], targetOptions)
      shop.img('compare', '-f', targetFormat, '-F', 'raw', path, shop.path('source.raw'))
      for (const file of fs.readdirSync(shop.folder).filter((one) => one.startsWith('into-'))) {
        fs.rmSync(shop.path(file))
      }
      done.add(target)
    }
    results.set(name, done)
  },
  60_000,
)

test('docs/formats/README.md shows what was converted', () => {
  const names = variants.map(([name]) => name)
  const readOnly = allDrivers
    .filter(
      (driver) =>
        driver.kind === 'format' && driver.createOptions === undefined && driver.probe !== undefined,
    )
    .map(({ name }) => name)
  const lines = [
    '# Image formats',
    '',
    'Each source (rows) was converted into each target (columns): an ext4 file system of 64 MiB, which `qemu-img` then found',
    'equal. This file is written by `tests/oracle/formats/conversions.test.ts` (`npm run format-docs`).',
    '',
    `| from \\ into | ${names.join(' | ')} |`,
    `|---|${names.map(() => '---|').join('')}`,
    ...names.map(
      (row) => `| **${row}** | ${names.map((to) => (results.get(row)?.has(to) ? '✓' : '')).join(' | ')} |`,
    ),
    '',
    `Read, and so converted from, are also: ${readOnly.map((name) => `\`${name}\``).join(', ')}; \`luks\` takes its keys from secrets.`,
    'Each format has a page here with its layout, its limits and what is refused.',
    '`blockgraph info --details`, and `image.info({ details: true })` with the type `FormatDetails`, show what each records of an',
    'image: identifiers, kind, creator, parent, sizes; the pages say what of it.',
    '',
  ]
  const text = lines.join('\n')
  if (process.env.BLOCKGRAPH_WRITE_DOCS !== undefined) {
    fs.writeFileSync(document, text)
  }
  expect(fs.readFileSync(document, 'utf8')).toBe(text)
})
