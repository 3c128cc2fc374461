import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { isBlockError } from '../../../errors/index.js'
import {
  Backend,
  createBlockLayer,
  createWithDriver,
  findProtocol,
  truncateNode,
} from '../../../graph/index.js'
import { BlockStatus, ReqFlags } from '../../../io/index.js'
import { createNodeHost } from '../../../platform/node/index.js'
import { raw } from '../../format/raw/index.js'
import { file } from '../file/index.js'
import { hostDevice } from './index.js'

/** A loop device of our own; undefined where this process may not make one or has no oracle. */
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'blockgraph-device-'))
const image = path.join(folder, 'disk')
fs.writeFileSync(image, Buffer.alloc(1 << 20))
const loop = ((): string | undefined => {
  if (spawnSync('qemu-img', ['--version']).status !== 0) {
    return undefined
  }
  const run = spawnSync('losetup', ['-f', '--show', image], { encoding: 'utf8' })
  return run.status === 0 ? run.stdout.trim() : undefined
})()
const device = loop ?? ''

const layer = createBlockLayer({ host: createNodeHost(), drivers: [raw, file, hostDevice] })

afterAll(async () => {
  await layer.closeAll()
  if (loop !== undefined) {
    spawnSync('blockdev', ['--setrw', loop])
    execFileSync('losetup', ['-d', loop])
  }
  fs.rmSync(folder, { recursive: true })
})

function contents(): Buffer {
  return execFileSync('dd', [`if=${device}`, 'bs=1M', 'count=1', 'iflag=direct', 'status=none'], {
    maxBuffer: 4 << 20,
  })
}

async function text(run: () => Promise<unknown>): Promise<string> {
  try {
    await run()
    return ''
  } catch (error) {
    if (isBlockError(error)) {
      return error.message
    }
    throw error
  }
}

function qemu(tool: string, args: string[], prefix: string): string {
  const said = spawnSync(tool, args, { encoding: 'utf8', input: '' }).stderr.trimEnd()
  return said.startsWith(prefix) ? said.slice(prefix.length) : said
}

describe.skipIf(loop === undefined)('a loop device', () => {
  beforeEach(() => {
    execFileSync('dd', ['if=/dev/zero', `of=${device}`, 'bs=1M', 'count=1', 'oflag=direct', 'status=none'])
    execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 9 0 1M', device])
  })

  test.each([false, true])('reads and writes, cache.direct=%s', async (direct) => {
    expect(findProtocol(layer, device, true).name).toBe('host_device')
    const options = { driver: 'raw', 'cache.direct': direct }
    const backend = await Backend.open(layer, device, options, { write: true })
    expect(backend.length).toBe(1 << 20)
    await backend.write(1000, 3, Uint8Array.of(1, 2, 3))
    const read = new Uint8Array(5)
    await backend.read(999, 5, read)
    expect([...read]).toEqual([9, 1, 2, 3, 9])
    await backend.flush()
    await backend.close()
    expect([...contents().subarray(998, 1004)]).toEqual([9, 9, 1, 2, 3, 9])
  })

  test.each([false, true])('zeroes and discards, cache.direct=%s', async (direct) => {
    const options = { driver: 'raw', 'cache.direct': direct, discard: 'unmap' }
    const backend = await Backend.open(layer, device, options, { write: true, unmap: true })
    await backend.writeZeroes(65536, 65536)
    await backend.writeZeroes(262144, 65536, ReqFlags.mayUnmap)
    await backend.discard(524288, 65536)
    const status = new BlockStatus()
    await backend.node.status(0, 1 << 20, 'zero', status)
    expect([status.bytes, status.data]).toEqual([1 << 20, true])
    await backend.flush()
    await backend.close()
    const now = contents()
    const zeroed = (from: number): boolean => now.subarray(from, from + 65536).every((byte) => byte === 0)
    expect([zeroed(65536), zeroed(262144), zeroed(0)]).toEqual([true, true, false])
    expect([now[131072], now[327680], now[65535]]).toEqual([9, 9, 9])
  })

  test('is prepared as an image target as qemu-img does it', async () => {
    execFileSync('qemu-img', ['create', '-q', '-f', 'raw', device, '512K'])
    const expected = contents()
    execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 9 0 1M', device])
    await createWithDriver(layer, raw, device, { size: 512 << 10 })
    expect(contents().equals(expected)).toBe(true)
    expect(expected.subarray(0, 513)).toEqual(Buffer.concat([Buffer.alloc(512), Buffer.of(9)]))
  })

  test.each([
    ['size=2M', { size: 2 << 20 }],
    ['size=1M,preallocation=full', { size: 1 << 20, preallocation: 'full' }],
    ['size=1M,preallocation=x', { size: 1 << 20, preallocation: 'x' }],
  ])('refuses %s in the same words', async (options, values) => {
    const theirs = qemu(
      'qemu-img',
      ['create', '-q', '-f', 'raw', '-o', options, device],
      `qemu-img: ${device}: `,
    )
    expect(theirs).not.toBe('')
    expect(await text(() => createWithDriver(layer, raw, device, values))).toBe(theirs)
  })

  test('keeps its size', async () => {
    const theirs = qemu('qemu-img', ['resize', '-f', 'raw', device, '2M'], 'qemu-img: ')
    const backend = await Backend.open(layer, device, { driver: 'raw' }, { write: true, resize: true })
    const how = { exact: true, preallocation: 'off', zero: false } as const
    expect(await text(() => truncateNode(backend.node, 2 << 20, how))).toBe(theirs)
    await backend.close()
  })

  test('set read-only is refused for writing', async () => {
    execFileSync('blockdev', ['--setro', device])
    try {
      const theirs = qemu(
        'qemu-io',
        ['-f', 'raw', '-c', 'quit', device],
        `qemu-io: can't open device ${device}: `,
      )
      const open = (): Promise<unknown> => Backend.open(layer, device, { driver: 'raw' }, { write: true })
      expect(await text(open)).toBe(theirs)
      expect(theirs).toBe('The device is not writable: Permission denied')
      await (await Backend.open(layer, device, { driver: 'raw' })).close()
    } finally {
      execFileSync('blockdev', ['--setrw', device])
    }
  })
})
