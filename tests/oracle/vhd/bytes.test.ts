import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openImage } from '../../../src/index.js'
import { run as runImg } from '../../../src/tools/img/run.js'
import { memoryContext } from '../text/fixture.js'
import { qemu, qemuIo } from './texts.js'

let root = ''
beforeAll(() => {
  root = fs.mkdtempSync(path.join(os.tmpdir(), 'blockgraph-bytes-'))
})
afterAll(() => fs.rmSync(root, { recursive: true, force: true }))

/** Guest offset, bytes, pattern; 0: write zeroes. */
const writes: readonly (readonly [offset: number, bytes: number, pattern: number])[] = [
  [2 << 20, 70000 & ~511, 1],
  [512, 512, 2],
  [(3 << 20) - 4096, 8192, 3],
  [1 << 20, 65536, 0],
  [(2 << 20) + 512, 1024, 4],
]

/** Random identifiers of a VDI image. */
const vdiUuids = [0x188, 0x1a8] as const

test.each<[format: string, options: string | undefined, size: string, random: readonly [number, number]]>([
  ['parallels', undefined, '5M', [0, 0]],
  ['parallels', 'cluster_size=64k', '5M', [0, 0]],
  ['parallels', 'cluster_size=1000', '4100k', [0, 0]],
  ['vdi', undefined, '5M', vdiUuids],
  ['vdi', 'static=on', '4195000', vdiUuids],
])('%s %s of %s: the same bytes as from QEMU', async (format, options, size, [from, to]) => {
  const theirs = path.join(root, 'theirs')
  const ours = path.join(root, 'ours')
  const create = (name: string): string[] => [
    'create',
    '-q',
    '-f',
    format,
    ...(options === undefined ? [] : ['-o', options]),
    name,
    size,
  ]
  const same = (): void => {
    const [a, b] = [theirs, ours].map((name) => fs.readFileSync(name).fill(0, from, to)) as [Buffer, Buffer]
    expect(b.length).toBe(a.length)
    expect(Buffer.compare(a, b)).toBe(0)
  }
  qemu(root, ...create(theirs))
  expect(await runImg(create(ours), memoryContext().context)).toBe(0)
  same()
  // QEMU's vdi makes blocks for zeroes, ours does not.
  const steps = writes.filter(([, , pattern]) => pattern !== 0 || format !== 'vdi')
  qemuIo(
    root,
    theirs,
    format,
    ...steps.map(([offset, bytes, pattern]) =>
      pattern === 0 ? `write -z ${offset} ${bytes}` : `write -P ${pattern} ${offset} ${bytes}`,
    ),
  )
  const image = await openImage(ours, { readOnly: false, format })
  for (const [offset, bytes, pattern] of steps) {
    await image.write(offset, new Uint8Array(bytes).fill(pattern))
  }
  await image.close()
  same()
  fs.rmSync(theirs)
  fs.rmSync(ours)
})
