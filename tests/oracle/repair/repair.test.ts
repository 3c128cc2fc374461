import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Folder, firstDifference, ours, theirs, withoutDates } from '../qcow2/tools.js'
import { type Damaged, damage, makeBases } from './corpus.js'

/**
 * Damaged images: what a check says, what a repair says and does, and what is left to be read, by the
 * oracle and by us. `REPAIR_IMAGES` sets how many (500 is a good number), `REPAIR_FROM` the first.
 */
const images = Number(process.env.REPAIR_IMAGES ?? 60)
const from = Number(process.env.REPAIR_FROM ?? 0)
const maxMemory = 256 * 2 ** 20

const folder = new Folder()
let bases = new Map<string, Uint8Array>()

beforeAll(() => {
  bases = makeBases(folder.path)
})

afterAll(() => folder.remove())

/** What `command` says and leaves on a fresh copy of the image each. */
async function both(damaged: Damaged, name: string, ...args: string[]) {
  const results = []
  for (const [side, tool] of [
    ['qemu', theirs],
    ['ours', ours],
  ] as const) {
    const cwd = folder.sub(side)
    const file = path.join(cwd, name)
    fs.rmSync(file, { force: true })
    fs.writeFileSync(file, damaged.image)
    const outcome = await tool(cwd, ...args, name)
    results.push({ cwd, file, outcome })
  }
  const [qemu, mine] = results
  if (qemu === undefined || mine === undefined) {
    throw new Error('no results')
  }
  return { qemu, mine }
}

/** A digest of the whole guest disk as the oracle reads it, if it can. */
function guest(cwd: string, name: string): string {
  const target = `${name}.raw`
  const { status } = theirs(cwd, 'convert', '-f', 'qcow2', '-O', 'raw', name, target)
  if (status !== 0) {
    return 'cannot be read'
  }
  return createHash('sha1')
    .update(fs.readFileSync(path.join(cwd, target)))
    .digest('hex')
}

for (let seed = from; seed < from + images; seed++) {
  test(`damaged image ${seed}`, { timeout: 60_000 }, async () => {
    const damaged = damage(bases, seed)
    const memory = process.memoryUsage().rss
    const check = await both(damaged, 'image', 'check', '-f', 'qcow2')
    expect(check.mine.outcome, damaged.title).toEqual(check.qemu.outcome)
    for (const level of ['leaks', 'all']) {
      const { qemu, mine } = await both(damaged, 'image', 'check', '-f', 'qcow2', '-r', level)
      const title = `${damaged.title}, -r ${level}`
      if (qemu.outcome.status < 0) {
        // The oracle crashed; there is nothing to compare with.
        expect([0, 1, 2, 3]).toContain(mine.outcome.status)
        continue
      }
      if (level === 'all' && qemu.outcome.status === 1 && mine.outcome.status === 0) {
        // We have repaired what the oracle cannot.
        expect(theirs(mine.cwd, 'check', '-f', 'qcow2', 'image').status, title).toBe(0)
        continue
      }
      if (level === 'all' && qemu.outcome.stderr.includes('Check failed: No medium found')) {
        // The oracle has rebuilt the refcounts, but cannot check the image again.
        expect(theirs(mine.cwd, 'check', '-f', 'qcow2', 'image').status, title).toBe(mine.outcome.status)
        continue
      }
      if (damaged.title.includes('header count at 0x24')) {
        // A longer L1 table reaches into other structures; the oracle goes on with its copy in memory.
        expect(mine.outcome.status, title).toBe(qemu.outcome.status)
        continue
      }
      expect(mine.outcome, title).toEqual(qemu.outcome)
      if (fs.statSync(qemu.file).size > 64 * 2 ** 20) {
        continue
      }
      const [a, b] = [qemu.file, mine.file].map((file) => fs.readFileSync(file))
      // Opening for writing changes bitmaps.
      const bitmaps = damaged.image.subarray(0x58, 0x60).some((byte) => byte !== 0)
      if (a !== undefined && b !== undefined && mine.outcome.status !== 1 && !bitmaps) {
        expect(firstDifference(withoutDates(a), withoutDates(b)), title).toBeUndefined()
      }
      if (bitmaps) {
        continue
      }
      const again = theirs(qemu.cwd, 'check', '-f', 'qcow2', 'image')
      const result = theirs(mine.cwd, 'check', '-f', 'qcow2', 'image')
      if (mine.outcome.status === 1) {
        // Given up in the middle; we have written what was found until then, the oracle perhaps not.
        expect([check.qemu.outcome.status, again.status, 0, 3], title).toContain(result.status)
      } else {
        expect(result, title).toEqual(again)
      }
      expect(await ours(mine.cwd, 'check', '-f', 'qcow2', 'image'), title).toEqual(result)
      if (level === 'all' && mine.outcome.status !== 1) {
        expect(guest(mine.cwd, 'image'), title).toEqual(guest(qemu.cwd, 'image'))
      }
    }
    expect(process.memoryUsage().rss - memory).toBeLessThan(maxMemory)
  })
}
