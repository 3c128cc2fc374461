import fs from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Folder, firstDifference, io, type Outcome, ours, theirs } from '../qcow2/tools.js'
import { chooser } from '../repair/corpus.js'

/**
 * Damaged images: what every command says, what a repair leaves and what can still be read, by the oracle
 * and by us. `QED_IMAGES` sets how many, `QED_FROM` the first.
 */
const images = Number(process.env.QED_IMAGES ?? (process.env.BLOCKGRAPH_FULL_MATRIX === undefined ? 30 : 120))
const first = Number(process.env.QED_FROM ?? 0)
const cluster = 4096

interface Base {
  readonly bytes: Buffer
  /** Places of all tables. */
  readonly tables: readonly number[]
}

const folder = new Folder()
const bases: Base[] = []

beforeAll(() => {
  const { path: cwd } = folder
  const must = (...args: string[]) => expect(theirs(cwd, ...args).status, args.join(' ')).toBe(0)
  must('create', '-q', '-f', 'raw', 'base', '20M')
  io(cwd, 'base', 'write -P 99 0 8M')
  for (const backing of [[], ['-b', 'base', '-F', 'raw']]) {
    must('create', '-q', '-f', 'qed', '-o', 'cluster_size=4k,table_size=2', ...backing, 'image', '20M')
    io(cwd, 'image', 'write -P 1 0 40k', 'write -P 2 100k 30k', 'write -z 64k 16k', 'write -P 3 5M 20k')
    io(cwd, 'image', 'write -P 4 17M 3k', 'write -z 18M 64k', 'write -P 5 200k 1k')
    const bytes = fs.readFileSync(path.join(cwd, 'image'))
    const tables = [cluster]
    for (let at = cluster; at < 3 * cluster; at += 8) {
      const table = bytes.readUInt32LE(at)
      if (table !== 0) {
        tables.push(table)
      }
    }
    bases.push({ bytes, tables })
  }
})

afterAll(() => folder.remove())

interface Damaged {
  readonly image: Buffer
  readonly title: string
  readonly isCut: boolean
}

function damage(seed: number): Damaged {
  const choose = chooser(seed)
  const base = bases[seed % bases.length]
  if (base === undefined) {
    throw new Error('no image')
  }
  const image = Buffer.from(base.bytes)
  const notes: string[] = []
  const write = (at: number, value: bigint, what: string) => {
    image.writeBigUInt64LE(BigInt.asUintN(64, value), at)
    notes.push(`${what} at ${at} is ${value.toString(16)}`)
  }
  for (let count = 1 + choose(3); count > 0; count--) {
    const clusters = image.length / cluster
    const kind = choose(10)
    if (kind === 0) {
      const at = [4, 8, 12, 16, 24, 32, 40, 48, 56][choose(9)] ?? 4
      image[at + choose(at < 16 ? 4 : 8)] = choose(256)
      notes.push(`byte of the header, field ${at}`)
    } else if (kind === 1) {
      image[16] = (image[16] ?? 0) | 2
      notes.push('marked')
    } else {
      const table = base.tables[kind < 5 ? 0 : choose(base.tables.length)] ?? cluster
      const entry = table + 8 * (choose(2) === 0 ? choose(12) : choose(1024))
      const values = [
        BigInt(choose(clusters)) * BigInt(cluster),
        BigInt(choose(clusters)) * BigInt(cluster),
        BigInt(clusters + choose(3) - 1) * BigInt(cluster),
        BigInt(choose(image.length)),
        BigInt(choose(3)),
        BigInt(choose(2 ** 31)) << 32n,
        -BigInt(1 + choose(8192)),
      ]
      write(entry, values[choose(values.length)] ?? 0n, 'entry')
    }
  }
  const isCut = choose(8) === 0
  return { image: isCut ? image.subarray(0, choose(image.length)) : image, title: notes.join(', '), isCut }
}

interface Left {
  readonly outcome: Outcome
  readonly image: Uint8Array
  /** What was converted, if it was. */
  readonly made: Uint8Array | undefined
}

async function both(image: Buffer, ...args: string[]): Promise<{ qemu: Left; mine: Left }> {
  const run = async (side: string, tool: typeof theirs | typeof ours): Promise<Left> => {
    const cwd = folder.sub(side)
    const file = path.join(cwd, 'image')
    const made = path.join(cwd, 'made')
    fs.rmSync(made, { force: true })
    fs.writeFileSync(file, image)
    fs.copyFileSync(path.join(folder.path, 'base'), path.join(cwd, 'base'))
    const outcome = await tool(cwd, ...args)
    return {
      // `info` of QEMU 7.2 never says that an image is dirty.
      outcome: { ...outcome, stdout: outcome.stdout.replace(/"(actual-size|dirty-flag)": \w+/g, '"$1"') },
      image: fs.readFileSync(file),
      made: outcome.status === 0 && fs.existsSync(made) ? fs.readFileSync(made) : undefined,
    }
  }
  return { qemu: await run('qemu', theirs), mine: await run('ours', ours) }
}

const commands = [
  ['info', '--output=json', '-f', 'qed', 'image'],
  ['check', '-f', 'qed', 'image'],
  ['check', '--output=json', '-f', 'qed', 'image'],
  ['map', '--output=json', '-f', 'qed', 'image'],
  ['convert', '-f', 'qed', '-O', 'raw', 'image', 'made'],
  ['resize', '-f', 'qed', 'image', '24M'],
  ['check', '-r', 'leaks', '-f', 'qed', 'image'],
  ['check', '-r', 'all', '-f', 'qed', 'image'],
]

for (let seed = first; seed < first + images; seed++) {
  test(`damaged image ${seed}`, { timeout: 60_000 }, async () => {
    const { image, title, isCut } = damage(seed)
    for (const args of commands) {
      if (isCut && ['map', 'convert'].includes(args[0] ?? '')) {
        // The oracle takes clusters behind the end for zeroes if they go on from one that is there.
        continue
      }
      const { qemu, mine } = await both(image, ...args)
      const what = `${title}: ${args.join(' ')}`
      if (qemu.outcome.status < 0) {
        // The oracle crashed, or takes forever.
        expect([0, 1, 2, 3], what).toContain(mine.outcome.status)
        continue
      }
      expect(mine.outcome, what).toEqual(qemu.outcome)
      expect(firstDifference(mine.image, qemu.image), what).toBeUndefined()
      expect(mine.made === undefined, what).toBe(qemu.made === undefined)
      if (mine.made !== undefined && qemu.made !== undefined) {
        expect(firstDifference(mine.made, qemu.made), what).toBeUndefined()
      }
    }
  })
}
