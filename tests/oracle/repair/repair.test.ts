import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Folder, firstDifference, type Outcome, ours, theirs, withoutDates } from '../qcow2/tools.js'
import { type Damaged, damage, makeBases } from './corpus.js'

/**
 * Damaged images: what a check says, what a repair says and does, and what is left to be read, by the
 * oracle and by us. `REPAIR_IMAGES` sets how many (500 is a good number), `REPAIR_FROM` the first.
 */
const images = Number(
  process.env.REPAIR_IMAGES ?? (process.env.BLOCKGRAPH_FULL_MATRIX === undefined ? 60 : 120),
)
const from = Number(process.env.REPAIR_FROM ?? 0)
const maxMemory = 256 * 2 ** 20

const folder = new Folder()
let bases = new Map<string, Uint8Array>()

beforeAll(() => {
  bases = makeBases(folder.path)
})

afterAll(() => folder.remove())

/** What `command` says and leaves on a fresh copy of the image each. */
async function both(damaged: Damaged, ...args: string[]) {
  const results = []
  for (const [side, tool] of [
    ['qemu', theirs],
    ['ours', ours],
  ] as const) {
    const cwd = folder.sub(side)
    const file = path.join(cwd, 'image')
    fs.rmSync(file, { force: true })
    fs.writeFileSync(file, damaged.image)
    fs.copyFileSync(path.join(folder.path, 'base-backing', 'base.raw'), path.join(cwd, 'base.raw'))
    const outcome = await tool(cwd, ...args, ...damaged.open)
    results.push({ cwd, file, outcome })
  }
  const [qemu, mine] = results
  if (qemu === undefined || mine === undefined) {
    throw new Error('no results')
  }
  return { qemu, mine }
}

/** A digest of the whole guest disk as the oracle reads it, if it can. */
function guest(cwd: string, damaged: Damaged): string {
  const target = path.join(cwd, 'image.raw')
  fs.rmSync(target, { force: true })
  const open = [...damaged.open]
  const name = open.pop() ?? ''
  const { status } = theirs(cwd, 'convert', ...open, '-O', 'raw', name, 'image.raw')
  if (status !== 0) {
    return 'cannot be read'
  }
  const { size } = fs.statSync(target)
  return size > 2 ** 28 ? `${size} bytes` : createHash('sha1').update(fs.readFileSync(target)).digest('hex')
}

/** What a command said, without numbers of nodes; QEMU forgets the end of one line. */
function said({ status, stdout, stderr }: Outcome): Outcome {
  return {
    status,
    stdout,
    stderr: stderr
      .replace(/#block\d+/g, '#block…')
      .replace(/(on the image file to fix\.)\n?/g, '$1\n')
      // A second complaint about what the first one was about.
      .replace(/qemu-img: Failed to flush the refcount block cache: .*\n/, '')
      // QEMU may make refcount blocks in order to free what an entry far off names.
      .replace(/(qcow2_free_clusters failed): .*/g, '$1'),
  }
}

/**
 * {@link said} of a command on an image with bitmaps: these are stored at its end, and what is broken may
 * stop that at one place or another.
 */
function saidOfBitmaps(outcome: Outcome): Outcome {
  const { status, stdout, stderr } = said(outcome)
  const lines = stderr
    .split('\n')
    .filter((line) => !/Lost persistent bitmaps|^qcow2: Marking image as corrupt/.test(line))
  return { status, stdout, stderr: lines.join('\n') }
}

/**
 * Images of which only the exit code is compared: where structures lie on each other, a repair of one changes
 * the other, and what comes of it depends on what is in memory at the time.
 */
function overlaps(image: Uint8Array, title: string): boolean {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength)
  // Snapshots that are read from the header, or an L1 table that reaches into other structures.
  return (
    (view.getUint32(60) !== 0 && Number(view.getBigUint64(64)) === 0) ||
    title.includes('header count at 0x24')
  )
}

for (let seed = from; seed < from + images; seed++) {
  // The oracle may count up to places that are very far off, in each of a dozen runs.
  test(`damaged image ${seed}`, { timeout: 7_200_000 }, async () => {
    const damaged = damage(bases, seed)
    const memory = process.memoryUsage().rss
    const view = new DataView(damaged.image.buffer)
    const bitmaps = view.getUint32(4) === 3 && view.getBigUint64(88) !== 0n
    const check = await both(damaged, 'check')
    if (check.qemu.outcome.status < 0) {
      // The oracle crashed, or takes forever.
      return
    }
    expect(said(check.mine.outcome), damaged.title).toEqual(said(check.qemu.outcome))
    for (const level of ['leaks', 'all']) {
      const { qemu, mine } = await both(damaged, 'check', '-r', level)
      const title = `${damaged.title}, -r ${level}`
      const recheck = (cwd: string) => said(theirs(cwd, 'check', ...damaged.open))
      if (qemu.outcome.status < 0) {
        // The oracle crashed; there is nothing to compare with.
        expect([0, 1, 2, 3]).toContain(mine.outcome.status)
        continue
      }
      const better = (qemu.outcome.status === 1 && mine.outcome.status !== 1) || mine.outcome.status === 0
      if (level === 'all' && better && mine.outcome.status !== qemu.outcome.status) {
        // We have repaired what the oracle cannot.
        expect(recheck(mine.cwd).status, title).toBe(mine.outcome.status)
        continue
      }
      if (level === 'all' && qemu.outcome.stderr.includes('Check failed: No medium found')) {
        // The oracle has rebuilt the refcounts, but cannot check the image again.
        expect(recheck(mine.cwd).status, title).toBe(mine.outcome.status)
        continue
      }
      const tooFar =
        qemu.outcome.stderr.includes('Check failed: Cannot allocate memory') ||
        mine.outcome.stderr.includes('ERROR allocating refblock: File too large')
      if (tooFar && mine.outcome.stderr !== qemu.outcome.stderr) {
        // A block is said to be so far off that the oracle has not the memory to count up to there, or makes
        // a refcount table that nobody opens again. Ours leaves the image as it is.
        expect([mine.outcome.status, qemu.outcome.status], title).toEqual([1, 1])
        expect(theirs(mine.cwd, 'info', ...damaged.open).status, title).toBe(0)
        continue
      }
      if (bitmaps && (view.getUint32(60) !== 0 || view.getBigUint64(64) !== 0n)) {
        // The oracle loses the snapshots.
        continue
      }
      if (
        qemu.outcome.stderr.includes('overlaps with bitmap directory') &&
        !mine.outcome.stderr.includes('overlaps')
      ) {
        // Without a bitmap directory, the oracle protects one of no bytes at the start of the file.
        expect(mine.outcome.status, title).toBe(qemu.outcome.status)
        continue
      }
      if (bitmaps && qemu.outcome.stderr.includes('qcow2_free_clusters failed')) {
        // Old clusters of bitmaps that stand far off: QEMU makes refcount blocks in order to free them.
        expect(mine.outcome.status, title).toBe(qemu.outcome.status)
        continue
      }
      const besideTable = '(overlaps with snapshot table)'
      if (qemu.outcome.stderr.includes(besideTable) && !mine.outcome.stderr.includes(besideTable)) {
        // A snapshot table that claims more than the file has.
        expect(mine.outcome.status, title).toBe(qemu.outcome.status)
        continue
      }
      if (overlaps(damaged.image, damaged.title)) {
        expect(mine.outcome.status, title).toBe(qemu.outcome.status)
        continue
      }
      const words = bitmaps ? saidOfBitmaps : said
      expect(words(mine.outcome), title).toEqual(words(qemu.outcome))
      if (fs.statSync(qemu.file).size > 64 * 2 ** 20) {
        continue
      }
      const [a, b] = [qemu.file, mine.file].map((file) => fs.readFileSync(file))
      // Opening for writing changes bitmaps.
      if (a !== undefined && b !== undefined && mine.outcome.status !== 1 && !bitmaps) {
        expect(firstDifference(withoutDates(a), withoutDates(b)), title).toBeUndefined()
      }
      const again = recheck(qemu.cwd)
      const result = recheck(mine.cwd)
      if (mine.outcome.status === 1) {
        // Given up in the middle; we have written what was found until then, the oracle perhaps not.
        expect([check.qemu.outcome.status, again.status, 0, 3], title).toContain(result.status)
      } else {
        expect(result, title).toEqual(again)
      }
      expect(said(await ours(mine.cwd, 'check', ...damaged.open)), title).toEqual(result)
      if (level === 'all' && mine.outcome.status !== 1) {
        expect(guest(mine.cwd, damaged), title).toEqual(guest(qemu.cwd, damaged))
      }
    }
    expect(process.memoryUsage().rss - memory).toBeLessThan(maxMemory)
  })
}
