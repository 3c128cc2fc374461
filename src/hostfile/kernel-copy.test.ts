import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { raw } from '../drivers/format/raw/index.js'
import { file } from '../drivers/protocol/file/index.js'
import { nullCo } from '../drivers/protocol/null/index.js'
import { Backend, type BlockLayer, createBlockLayer } from '../graph/index.js'
import type { OptionTree } from '../options/index.js'
import { createNodeHost } from '../platform/node/index.js'

let folder = ''
let layer: BlockLayer

beforeAll(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'blockgraph-copy-'))
  layer = createBlockLayer({
    host: createNodeHost({ warn: () => undefined }),
    drivers: [raw, file, nullCo],
  })
})

afterAll(async () => {
  await layer.closeAll()
  fs.rmSync(folder, { recursive: true })
})

function make(name: string, bytes: number, fill: (i: number) => number = () => 0): string {
  const full = path.join(folder, name)
  fs.writeFileSync(
    full,
    Uint8Array.from({ length: bytes }, (_, i) => fill(i)),
  )
  return full
}

async function open(options: OptionTree, write: boolean): Promise<Backend> {
  return await Backend.open(layer, undefined, options, { write })
}

const window = (name: string, offset: number): OptionTree => ({
  driver: 'raw',
  offset,
  file: { driver: 'file', filename: name },
})

describe('copying within the kernel', () => {
  test('between windows of two files', async () => {
    const from = make('from', 65536, (i) => i % 251)
    const to = make('to', 65536)
    const source = await open(window(from, 1024), false)
    const target = await open(window(to, 2048), true)
    const copied = await source.node.state?.copyRangeTo?.(512, target.node, 4096, 8192)
    expect(copied).toBe(8192)
    await source.close()
    await target.close()
    const expected = Buffer.alloc(65536)
    fs.readFileSync(from).copy(expected, 6144, 1536, 9728)
    expect(fs.readFileSync(to)).toEqual(expected)
  })

  test('grows the file below the target', async () => {
    const from = make('from', 8192, () => 5)
    const to = make('to', 4096)
    const source = await open(window(from, 0), false)
    const target = await open(window(to, 0), true)
    expect(await source.node.state?.copyRangeTo?.(0, target.node, 4096, 4096)).toBe(4096)
    expect(target.node.file?.length).toBe(8192)
    await source.close()
    await target.close()
  })

  test('not to a node that has no file, is read-only, or guards its first block', async () => {
    const from = make('from', 8192, () => 5)
    const to = make('to', 8192)
    const source = await open(window(from, 0), false)
    const nowhere = await open({ driver: 'null-co' }, true)
    const readOnly = await open(window(to, 0), false)
    const probed = await Backend.open(layer, to, {}, { write: true })
    const copy = source.node.state?.copyRangeTo?.bind(source.node.state)
    expect(await copy?.(0, nowhere.node, 0, 4096)).toBeUndefined()
    expect(await copy?.(0, readOnly.node, 0, 4096)).toBeUndefined()
    expect(await copy?.(0, probed.node, 0, 4096)).toBeUndefined()
    expect(await copy?.(0, probed.node, 4096, 4096)).toBe(4096)
    for (const backend of [source, nowhere, readOnly, probed]) {
      await backend.close()
    }
  })

  test('not out of a window of fixed size', async () => {
    const from = make('from', 8192, () => 5)
    const to = make('to', 8192)
    const sized = (name: string): OptionTree => ({
      driver: 'raw',
      size: 4096,
      file: { driver: 'file', filename: name },
    })
    const source = await open(sized(from), false)
    const target = await open(sized(to), true)
    expect(() => source.node.state?.copyRangeTo?.(4096, target.node, 0, 512)).toThrow('Invalid argument')
    expect(() => source.node.state?.copyRangeTo?.(0, target.node, 4096, 512)).toThrow(
      'No space left on device',
    )
    await source.close()
    await target.close()
  })
})
