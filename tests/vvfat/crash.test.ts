import { expect, test } from 'vitest'
import { seeded } from '../formats/format-under-test.js'
import { FolderCrash } from './folder-crash.js'
import { FolderHost, FolderRecord, type Tree } from './folder-host.js'
import { become, kinds, problemOf, RandomTree, shown, withDisk } from './guest.js'

const seeds = Number(process.env.CRASH_SEEDS ?? 10)
const samples = 3

interface Commit {
  /** Events before it, and after it. */
  readonly from: number
  readonly to: number
  readonly before: Tree
  readonly after: Tree
}

/** A guest changes the folder a few times and flushes; what happened to the folder meanwhile. */
async function record(kind: string, seed: number) {
  const random = seeded(seed)
  const trees = new RandomTree(random)
  const first = trees.snapshot()
  const watched = new FolderRecord()
  const host = new FolderHost(first, watched)
  const crash = new FolderCrash(host, seeded(seed + 99))
  const commits: Commit[] = []
  await withDisk(host, kind, async (node) => {
    let before: Tree = first
    for (let round = 0; round < 3; round++) {
      trees.change(6)
      const after = trees.snapshot()
      await become(node, after, kind, random)
      const from = watched.events.length
      await node.flush()
      commits.push({ from, to: watched.events.length, before, after })
      before = after
    }
  })
  return { watched, host, crash, commits }
}

test.each(kinds)(
  'after a power cut while fat:rw:%s is written back each file is old or new',
  async (kind) => {
    let during = 0
    for (let seed = 1; seed <= seeds; seed++) {
      const { watched, host, crash, commits } = await record(kind, seed)
      expect(watched.outside).toEqual([])
      expect([...(host.contents('/host/outside')?.bytes() ?? [])]).toEqual([1, 2, 3])
      const last = commits.at(-1) as Commit
      // Closing had nothing to do.
      expect(watched.events.length).toBe(last.to)
      expect(shown(host.tree())).toEqual(shown(last.after))
      expect([...host.tree().keys()]).toEqual([...last.after.keys()])
      for (const { issued, tree } of crash.states(watched.events, samples)) {
        const note = `seed ${seed}, ${issued} of ${watched.events.length} events`
        const running = commits.find(({ from, to }) => from < issued && issued < to)
        if (running !== undefined) {
          during++
          expect(problemOf(tree, running.before, running.after), note).toBeUndefined()
          continue
        }
        const done = commits.findLast(({ to }) => to <= issued)
        expect(shown(tree), note).toEqual(shown(done?.after ?? commits[0]?.before ?? new Map()))
      }
    }
    expect(during).toBeGreaterThan(200)
  },
)

test('a power cut before a flush leaves the folder as it was', async () => {
  const trees = new RandomTree(seeded(3))
  const first = trees.snapshot()
  const watched = new FolderRecord()
  const host = new FolderHost(first, watched)
  await withDisk(host, 'floppy:', async (node) => {
    trees.change(6)
    await become(node, trees.snapshot(), 'floppy:', seeded(4))
    expect(watched.events).toEqual([])
    expect(shown(host.tree())).toEqual(shown(first))
  })
  expect(watched.events.length).toBeGreaterThan(0)
  expect(shown(host.tree())).toEqual(shown(trees.snapshot()))
})

test('names that temporary files have are names like any other for a guest', async () => {
  const text = (word: string): Uint8Array => new TextEncoder().encode(word)
  const host = new FolderHost(new Map([['old', text('old')]]))
  const after = new Map([
    ['.vvfat-0.tmp', text('first')],
    ['.vvfat-1.tmp', text('second')],
    ['a.txt', text('third')],
    ['old', undefined],
    ['old/.vvfat-0.tmp', text('fourth')],
  ])
  await withDisk(host, 'floppy:', async (node) => {
    await become(node, after, 'floppy:', seeded(2))
  })
  expect(host.tree()).toEqual(after)
})
