import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { allDrivers } from '../../../src/all-drivers.js'
import { createBlockLayer } from '../../../src/graph/index.js'
import { createNodeHost } from '../../../src/platform/node/index.js'
import { ours as ourIo, theirs as theirIo } from '../io/qemu-io.js'
import {
  type Case,
  createOptionsOf,
  matrixCases,
  nameOf,
  type Step,
  scriptOf,
  sizeOf,
} from './matrix-cases.js'
import { Folder, io, ours, theirs } from './tools.js'

/**
 * Images with every pair of features, made and written to by QEMU and by us with the same command
 * lines, then judged by both: contents, check, info, map, snapshots, bitmaps. CI takes a part of one
 * covering set; `QCOW2_MATRIX_SEEDS` is how many whole sets (of different seeds) are tried.
 */
const seeds = Number(process.env.QCOW2_MATRIX_SEEDS ?? 0)
const sampled = 10
const cases =
  seeds === 0
    ? sample(matrixCases(1)).map((c) => ({ c, seed: 1 }))
    : Array.from({ length: seeds }, (_, i) => matrixCases(i + 1).map((c) => ({ c, seed: i + 1 }))).flat()

/** Cases from all over the set; encrypted ones take long to make. */
function sample(all: readonly Case[]): Case[] {
  const encrypted = all.filter((c) => c.encryption !== 'none')
  const plain = all.filter((c) => c.encryption === 'none')
  return [...plain.filter((_, i) => i < sampled), ...encrypted.slice(0, 1)]
}

const folder = new Folder()

afterAll(() => folder.remove())

type Side = 'qemu' | 'ours'

/** How a command line names the image. `snapshot` has no option for the format. */
function imageArgs(c: Case, command = ''): string[] {
  if (c.encryption === 'none') {
    return command === 'snapshot' ? ['image'] : ['-f', 'qcow2', 'image']
  }
  return [
    '--object',
    'secret,id=s,data=geheim',
    '--image-opts',
    `driver=qcow2,file.filename=image,encrypt.key-secret=s`,
  ]
}

async function img(side: Side, cwd: string, ...args: string[]) {
  return side === 'qemu' ? theirs(cwd, ...args) : await ours(cwd, ...args)
}

/** Runs a command line; returns what it said, which may be a refusal if both sides say the same. */
async function perform(c: Case, side: Side, cwd: string, [tool, ...args]: Step) {
  if (tool === 'io') {
    const words = [
      ...imageArgs(c).slice(0, -1),
      '-d',
      'unmap',
      ...args.slice(0, -1),
      imageArgs(c).at(-1) ?? '',
    ]
    const result = side === 'qemu' ? theirIo(words, cwd) : await ourIo(words, cwd)
    const said = `${result.stdout}${result.stderr}`
    if (result.code !== 0 || /failed|error/i.test(said)) {
      throw new Error(`${side} io ${words.join(' ')}: ${said}`)
    }
    return said
  }
  const words = args.flatMap((arg) => (arg === 'IMAGE' ? imageArgs(c, args[0]) : [arg]))
  return { words, ...(await img(side, cwd, ...words)) }
}

/** Makes the image of a case with the tools of one side. */
async function make(c: Case, side: Side, seed: number) {
  const cwd = folder.sub(side)
  for (const name of fs.readdirSync(cwd)) {
    fs.rmSync(path.join(cwd, name))
  }
  const size = sizeOf(c)
  const args = ['create', '-q', '-f', 'qcow2']
  if (c.encryption !== 'none') {
    args.push('--object', 'secret,id=s,data=geheim')
  }
  args.push('-o', createOptionsOf(c).join(','))
  if (c.backing !== 'none') {
    const below = Math.ceil((size * 0.8) / 512) * 512
    theirs(cwd, 'create', '-q', '-f', c.backing, 'base', String(below))
    io(cwd, 'base', `write -P 0xb1 0 ${Math.floor(below / 2048) * 512}`, `write -P 0xb2 ${below - 1024} 1k`)
    args.push('-b', 'base', '-F', c.backing)
  }
  let made = await img(side, cwd, ...args, 'image', String(size))
  for (let again = 0; again < 9 && made.stderr.includes('accurate CPU usage'); again++) {
    // QEMU measures how long a key derivation takes, which fails on coarse clocks now and then.
    made = await img(side, cwd, ...args, 'image', String(size))
  }
  expect(made, `${side} ${args.join(' ')}`).toMatchObject({ status: 0, stderr: '' })
  const said: Awaited<ReturnType<typeof perform>>[] = []
  for (const step of scriptOf(c, seed)) {
    said.push(await perform(c, side, cwd, step))
  }
  return { cwd, said }
}

/** What a side says about the image in `cwd`. */
async function judge(c: Case, side: Side, cwd: string) {
  const say = (...args: string[]) => img(side, cwd, ...args)
  const raw = `${side}.raw`
  const [name = '', ...open] = imageArgs(c).reverse()
  const converted = await say('convert', ...open.reverse(), '-O', 'raw', name, raw)
  expect(converted, `${side} convert`).toEqual({ status: 0, stdout: '', stderr: '' })
  return {
    check: await say('check', '--output=json', ...imageArgs(c)),
    info: await say('info', '--output=json', ...imageArgs(c)),
    snapshots: await say('snapshot', '-l', ...imageArgs(c, 'snapshot')),
    contents: createHash('sha1')
      .update(fs.readFileSync(path.join(cwd, raw)))
      .digest('hex'),
  }
}

type Verdict = Awaited<ReturnType<typeof judge>>

interface Extent {
  readonly start: number
  length: number
  readonly data: boolean
  readonly zero: boolean
  readonly offset?: number
}

/**
 * A map as far as the image decides it: not where its clusters are, and not which parts of them are
 * holes of the file below (around small writes we write zeroes where QEMU punches holes).
 */
function guestExtents(map: readonly Extent[]): Extent[] {
  const merged: Extent[] = []
  for (const { offset: _offset, ...extent } of map) {
    const kind = { ...extent, zero: extent.zero && !extent.data }
    const last = merged.at(-1)
    if (last !== undefined && JSON.stringify({ ...kind, start: 0, length: 0 }) === kindOf(last)) {
      last.length += kind.length
    } else {
      merged.push(kind)
    }
  }
  return merged
}

function kindOf(extent: Extent): string {
  return JSON.stringify({ ...extent, start: 0, length: 0 })
}

/** A verdict without what differs between two images that were made alike: dates, keys, places in the file. */
function shape(c: Case, map: string, { check, info, snapshots, contents }: Verdict) {
  // Where clusters go after discards differs a little; snapshots that QEMU fails to make leak clusters.
  const {
    'image-end-offset': _end,
    'fragmented-clusters': _fragments,
    leaks: _leaks,
    ...counts
  } = JSON.parse(check.stdout)
  const { 'actual-size': _size, snapshots: taken, ...about } = JSON.parse(info.stdout)
  const luks = about['format-specific']?.data?.encrypt
  if (luks !== undefined) {
    luks.uuid = ''
    luks['master-key-iters'] = 0
    for (const slot of luks.slots) {
      slot.iters = 0
    }
  }
  // What was preallocated and never written reads as zeroes that the key has decrypted.
  const isPreallocated = c.preallocation !== 'off' || c.dataFile === 'raw'
  const ownContents = c.encryption !== 'none' && isPreallocated
  // Where a cluster that a snapshot shares is copied, QEMU fills unallocated subclusters, and we do not.
  const ownExtents = c.extendedL2 && c.snapshots
  return {
    counts,
    about,
    taken: (taken ?? []).map(({ id, name }: { id: string; name: string }) => ({ id, name })),
    lines: snapshots.stdout.split('\n').length,
    extents: ownExtents ? undefined : guestExtents(JSON.parse(map)),
    contents: ownContents ? undefined : contents,
  }
}

/** The bits of every bitmap in an image, as dirty ranges. */
async function bitmaps(c: Case, file: string): Promise<unknown[]> {
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  // Its bit among the incompatible features; a converted copy has none.
  const external = ((fs.readFileSync(file)[79] ?? 0) & 4) !== 0
  const data = external ? { 'data-file.filename': path.join(path.dirname(file), 'image.data') } : {}
  const node = await layer.open(file, { driver: 'qcow2', ...data })
  const found: unknown[] = []
  for (const bitmap of node.dirtyBitmaps) {
    const areas: [number, number][] = []
    for (let at = bitmap.nextDirty(0); at >= 0; ) {
      const end = bitmap.nextZero(at)
      areas.push([at, end < 0 ? c.cluster * 1e9 : end])
      at = end < 0 ? -1 : bitmap.nextDirty(end)
    }
    const { name, granularity, enabled, inconsistent, size } = bitmap
    found.push({ name, granularity, enabled, inconsistent, size, areas })
  }
  await layer.unref(node)
  return found.sort((a, b) => JSON.stringify(a).localeCompare(JSON.stringify(b)))
}

describe.each(cases.map(({ c, seed }, i) => [`${seed}.${i}: ${nameOf(c)}`, c, seed * 1000 + i] as const))(
  '%s',
  (_name, c, seed) => {
    test('both sides make the same and say the same', { timeout: 120_000 }, async () => {
      const made = { qemu: await make(c, 'qemu', seed), ours: await make(c, 'ours', seed) }
      expect(made.ours.said).toEqual(made.qemu.said)
      const shapes: unknown[] = []
      for (const maker of ['qemu', 'ours'] as const) {
        const { cwd, said } = made[maker]
        // Reading makes holes of the file look like data, so the maps come first.
        const map = theirs(cwd, 'map', '--output=json', ...imageArgs(c))
        expect(await ours(cwd, 'map', '--output=json', ...imageArgs(c)), `made by ${maker}`).toEqual(map)
        const verdict = await judge(c, 'qemu', cwd)
        const refused = said.some((one) => typeof one !== 'string' && one.status !== 0)
        const clean = maker === 'qemu' && refused ? [0, 3] : [0]
        expect(clean, `${maker}: ${verdict.check.stdout}`).toContain(verdict.check.status)
        expect(await judge(c, 'ours', cwd), `made by ${maker}`).toEqual(verdict)
        shapes.push(shape(c, map.stdout, verdict))
      }
      expect(shapes[1]).toEqual(shapes[0])
      if (c.bitmaps && c.encryption === 'none') {
        const bits = await bitmaps(c, path.join(made.qemu.cwd, 'image'))
        expect(bits).toHaveLength(2)
        expect(await bitmaps(c, path.join(made.ours.cwd, 'image'))).toEqual(bits)
        // What QEMU finds in our bitmaps, it puts into a copy.
        const copied = theirs(
          made.ours.cwd,
          'convert',
          '-f',
          'qcow2',
          '-O',
          'qcow2',
          '--bitmaps',
          'image',
          'copy',
        )
        expect(copied).toMatchObject({ status: 0, stderr: '' })
        const same = (all: unknown[]) => all.map((one) => ({ ...(one as object), enabled: undefined }))
        expect(same(await bitmaps(c, path.join(made.ours.cwd, 'copy')))).toEqual(same(bits))
      }
    })
  },
)
