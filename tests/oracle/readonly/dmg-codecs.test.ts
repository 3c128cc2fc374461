import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { encodeAdc } from '../../formats/built/adc.js'
import { sampleDisk } from '../../formats/built/disk.js'
import { buildDmg, type DmgSpec } from '../../formats/built/dmg.js'
import { encodeLzfse, encodeLzvn } from '../../formats/built/lzfse.js'
import { imagePath, layerOn, memoryHost } from '../../formats/format-under-test.js'
import { readAll } from '../../formats/guest.js'

/** qemu-img here knows zlib alone: other chunks are judged by 7-Zip and dmg2img. */

let folder = ''

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'blockgraph-dmg-'))
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

function tool(name: string, ...args: string[]): (data: Uint8Array) => Uint8Array {
  return (input) => execFileSync(name, args, { input, maxBuffer: 1 << 26 })
}

const disk = sampleDisk(3000 * 512, 11)

const cases: [string, DmgSpec, judges: ('7z' | 'dmg2img')[]][] = [
  ['bzip2', { kinds: ['bzip2', 'zlib'], compress: { bzip2: tool('bzip2', '-9') } }, ['7z', 'dmg2img']],
  ['xz', { kinds: ['lzma', 'raw'], compress: { lzma: tool('xz', '-6') } }, ['7z']],
  ['adc', { kinds: ['adc'], compress: { adc: encodeAdc } }, ['7z', 'dmg2img']],
  // 7-Zip does not take what our little encoder makes.
  ['lzfse', { kinds: ['lzfse'], compress: { lzfse: encodeLzfse } }, []],
  ['lzvn', { kinds: ['lzfse', 'zlib'], compress: { lzfse: encodeLzvn } }, ['7z']],
  ['zlib', { layout: 'plist' }, ['7z', 'dmg2img']],
]

test.each(cases)('%s chunks are read as other programs read them', async (name, spec, judges) => {
  const image = buildDmg(disk, { chunkBytes: 262144, ...spec })
  const host = memoryHost()
  host.put(imagePath, image)
  const layer = layerOn(host)
  const node = await layer.open(imagePath, { driver: 'dmg' })
  expect(host.warnings).toEqual([])
  expect(Buffer.compare(await readAll(node), disk)).toBe(0)
  // And in pieces, backwards.
  const part = new Uint8Array(5120)
  for (let at = disk.length - part.length; at >= 0; at -= 99 * 512) {
    await node.read(at, part.length, part, 0, 0)
    expect(Buffer.compare(part, disk.subarray(at, at + part.length))).toBe(0)
  }
  await layer.unref(node)
  const path = join(folder, `${name}.dmg`)
  writeFileSync(path, image)
  for (const judge of judges) {
    expect(Buffer.compare(judged(judge, path), disk), judge).toBe(0)
  }
})

function judged(judge: '7z' | 'dmg2img', path: string): Uint8Array {
  const out = `${path}.${judge}`
  const result =
    judge === '7z'
      ? // Our lists have no checksums, which it complains about after extracting.
        spawnSync('7z', ['x', '-y', '-so', path], { maxBuffer: 1 << 26 })
      : spawnSync('dmg2img', ['-s', path, out])
  expect(result.error).toBeUndefined()
  return judge === '7z' ? result.stdout : readFileSync(out)
}
