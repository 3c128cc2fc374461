import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { seeded } from '../../jobs/machine.js'
import { type Peer, type QmpLines, startOurs, startTheirs } from '../qmp/peers.js'

/**
 * Sequences of jobs on chains whose nodes a manager has opened one by one: what a job records as the backing file of
 * an image must be what qemu-storage-daemon records, to the byte, also after the jobs before.
 */
const seconds = Number(process.env.BLOCKGRAPH_NAMES_SECONDS ?? 6)
const firstSeed = Number(process.env.BLOCKGRAPH_NAMES_SEED ?? 1)
const size = '2M'

/** A daemon, and the folder that it works in. */
class Side {
  readonly log: string[] = []
  readonly #dir: string
  readonly #peer: Peer
  readonly #lines: QmpLines
  readonly #events: { event: string; data: Record<string, unknown> }[] = []

  private constructor(dir: string, peer: Peer, lines: QmpLines) {
    this.#dir = dir
    this.#peer = peer
    this.#lines = lines
  }

  static async start(dir: string, start: typeof startTheirs): Promise<Side> {
    mkdirSync(dir)
    const peer = start(dir)
    const lines = await peer.connect()
    const side = new Side(dir, peer, lines)
    await lines.next()
    await side.call('qmp_capabilities', {})
    return side
  }

  async #next(): Promise<Record<string, unknown>> {
    return JSON.parse(await this.#lines.next()) as Record<string, unknown>
  }

  /** Carries out a command, and notes its answer if it is an error. */
  async call(command: string, args: object): Promise<boolean> {
    this.#lines.send(JSON.stringify({ execute: command, arguments: args }).replaceAll('DIR', this.#dir))
    for (;;) {
      const message = await this.#next()
      if ('event' in message) {
        this.#events.push(message as never)
        continue
      }
      if ('error' in message) {
        this.log.push(`${command}: ${JSON.stringify(message.error)}`)
      }
      return !('error' in message)
    }
  }

  /** Waits until a job has come to this state. Returns whether it has told an error. */
  async until(id: string, status: string): Promise<boolean> {
    let failed = false
    for (;;) {
      const { event, data } = this.#events.shift() ?? ((await this.#next()) as never)
      if ((event as string) === 'BLOCK_JOB_COMPLETED' && (data as { error?: string }).error !== undefined) {
        this.log.push(`${id}: ${(data as { error: string }).error}`)
        failed = true
      }
      const seen = data as { id?: string; status?: string }
      if (event === 'JOB_STATUS_CHANGE' && seen.id === id && seen.status === status) {
        return failed
      }
    }
  }

  img(...args: string[]): string {
    const own = args.map((arg) => arg.replaceAll('DIR', this.#dir))
    return execFileSync('qemu-img', own, { cwd: this.#dir, stdio: 'pipe', encoding: 'utf8' })
  }

  remove(file: string): void {
    rmSync(join(this.#dir, file))
  }

  /** What the headers of the images name. */
  note(images: readonly string[]): void {
    for (const image of images) {
      const info = JSON.parse(this.img('info', '-U', '--output=json', `${image}.qcow2`)) as Record<
        string,
        unknown
      >
      const named = `${String(info['backing-filename'])} (${String(info['backing-filename-format'])})`
      this.log.push(`${image}: ${named.replaceAll(this.#dir, 'DIR')}`)
    }
  }

  async close(): Promise<void> {
    this.#lines.socket.destroy()
    await this.#peer[Symbol.asyncDispose]()
  }
}

class Sequence {
  readonly steps: string[] = []
  readonly #random: (below: number) => number
  readonly #sides: readonly Side[]
  #chain: string[] = []
  #names = 0
  #jobs = 0

  constructor(seed: number, sides: readonly Side[]) {
    this.#random = seeded(seed)
    this.#sides = sides
  }

  async #both(command: string, args: object): Promise<boolean> {
    const answers: boolean[] = []
    for (const side of this.#sides) {
      answers.push(await side.call(command, args))
    }
    return answers[0] === true
  }

  #image(backing?: string): string {
    const name = `n${this.#names++}`
    // Names in headers are relative, absolute, or say more than they need to.
    const named = ['', 'DIR/', './'][this.#random(3)] ?? ''
    for (const side of this.#sides) {
      side.img(
        ...['create', '-q', '-f', 'qcow2'],
        ...(backing === undefined ? [] : ['-b', `${named}${backing}.qcow2`, '-F', 'qcow2']),
        ...[`${name}.qcow2`, size],
      )
    }
    return name
  }

  /** `undefined`: the daemon opens what the header names. */
  async #add(name: string, backing: string | null | undefined): Promise<void> {
    await this.#both('blockdev-add', {
      driver: 'qcow2',
      'node-name': name,
      file: { driver: 'file', filename: `DIR/${name}.qcow2` },
      ...(backing === undefined ? {} : { backing }),
    })
  }

  async start(): Promise<void> {
    let below: string | undefined
    for (let count = 4 + this.#random(4); count > 0; count--) {
      const name = this.#image(below)
      await this.#add(name, below ?? null)
      this.#chain.unshift(name)
      below = name
    }
    this.#note()
  }

  #note(): void {
    for (const side of this.#sides) {
      side.note(this.#chain)
    }
  }

  async #overlay(): Promise<void> {
    const below = this.#chain[0] ?? ''
    const name = this.#image(below)
    await this.#add(name, null)
    await this.#both('blockdev-snapshot', { node: below, overlay: name })
    this.#chain.unshift(name)
  }

  /** Does a job to its end; returns whether it has succeeded. */
  async #run(command: string, args: object, ready: boolean): Promise<boolean> {
    const id = `j${this.#jobs++}`
    if (!(await this.#both(command, { 'job-id': id, ...args }))) {
      return false
    }
    let failed = false
    for (const side of this.#sides) {
      if (ready) {
        await side.until(id, 'ready')
        await side.call('job-complete', { id })
      }
      failed = await side.until(id, 'null')
    }
    return !failed
  }

  async #remove(names: readonly string[]): Promise<void> {
    for (const name of names) {
      await this.#both('blockdev-del', { 'node-name': name })
    }
  }

  async step(): Promise<void> {
    const random = this.#random
    const last = this.#chain.length - 1
    const kind = last < 2 ? 0 : 1 + random(6)
    this.steps.push(`${kind} on ${this.#chain.join(' ')}`)
    const recorded = random(4) === 0
    if (kind < 2) {
      await this.#overlay()
    } else if (kind < 5) {
      const top = random(6) === 0 ? 0 : 1 + random(last - 1)
      const base = top + 1 + random(last - top)
      const done = await this.#run(
        'block-commit',
        {
          device: this.#chain[0],
          'top-node': this.#chain[top],
          'base-node': this.#chain[base],
          ...(recorded && top > 0 ? { 'backing-file': `${this.#chain[base]}.qcow2` } : {}),
        },
        top === 0,
      )
      if (done) {
        await this.#remove(this.#chain.splice(top, base - top))
      }
    } else {
      const to = random(last)
      const base = to + 1 + random(last - to + (random(4) === 0 ? 1 : 0))
      const done = await this.#run(
        'block-stream',
        {
          device: this.#chain[to],
          ...(base > last ? {} : { 'base-node': this.#chain[base] }),
          ...(recorded && base <= last ? { 'backing-file': `./${this.#chain[base]}.qcow2` } : {}),
        },
        false,
      )
      if (done) {
        await this.#remove(this.#chain.splice(to + 1, base - to - 1))
      }
    }
    this.#note()
  }
}

/** Both daemons, each in a folder of its own. */
async function withSides(folder: string, run: (sides: readonly Side[]) => Promise<void>): Promise<void> {
  mkdirSync(folder, { recursive: true })
  // Names of one length: there is a limit to what a header holds.
  const sides = [
    await Side.start(join(folder, 'theirs'), startTheirs),
    await Side.start(join(folder, 'ours--'), startOurs),
  ]
  try {
    await run(sides)
  } finally {
    for (const side of sides) {
      await side.close()
    }
  }
  rmSync(folder, { recursive: true })
}

test(
  'backing files that jobs record, beside qemu-storage-daemon',
  async () => {
    const root = mkdtempSync(join(tmpdir(), 'names-'))
    const end = Date.now() + seconds * 1000
    // At least one that shows a name with options in it.
    let embedded = 0
    for (let seed = firstSeed; Date.now() < end || embedded === 0; seed++) {
      await withSides(join(root, String(seed)), async (sides) => {
        const sequence = new Sequence(seed, sides)
        await sequence.start()
        for (let step = 0; step < 8; step++) {
          await sequence.step()
          expect(sides[1]?.log, `seed ${seed}\n${sequence.steps.join('\n')}`).toEqual(sides[0]?.log)
        }
        embedded += sides[0]?.log.filter((line) => line.includes('json:')).length ?? 0
      })
    }
    expect(embedded).toBeGreaterThan(0)
    rmSync(root, { recursive: true })
  },
  seconds * 1000 + 60_000,
)

/** Commits n3 into n2, then n1 into n0, of the chain n4 n3 n2 n1 n0. Returns what n4 names and whether it can be opened. */
async function twoCommits(side: Side, named: boolean): Promise<{ name: string; opens: boolean }> {
  const nodes = ['n0', 'n1', 'n2', 'n3', 'n4']
  for (const [at, name] of nodes.entries()) {
    const below = nodes[at - 1]
    const backing = below === undefined ? [] : ['-b', `${below}.qcow2`, '-F', 'qcow2']
    side.img('create', '-q', '-f', 'qcow2', ...backing, `${name}.qcow2`, size)
    const options = { 'node-name': name, file: { driver: 'file', filename: `DIR/${name}.qcow2` } }
    await side.call('blockdev-add', { driver: 'qcow2', ...options, backing: below ?? null })
  }
  for (const [top, base] of [
    ['n3', 'n2'],
    ['n1', 'n0'],
  ]) {
    const id = `commit-${top}`
    await side.call('block-commit', {
      ...{ 'job-id': id, device: 'n4', 'top-node': top, 'base-node': base },
      ...(named ? { 'backing-file': `${base}.qcow2` } : {}),
    })
    await side.until(id, 'null')
    await side.call('blockdev-del', { 'node-name': top })
    side.remove(`${top}.qcow2`)
  }
  side.note(['n4'])
  let opens = true
  try {
    side.img('info', '-U', '--backing-chain', 'n4.qcow2')
  } catch {
    opens = false
  }
  return { name: side.log.at(-1) ?? '', opens }
}

// The name of a node whose backing file is not the one that its image leads to says which it is instead, as it is now.
test.each([
  { named: false, opens: false },
  { named: true, opens: true },
])(
  'a commit below an image whose backing file was recorded before, with backing-file: $named',
  async (expected) => {
    const folder = mkdtempSync(join(tmpdir(), 'names-'))
    await withSides(folder, async (sides) => {
      const seen: { name: string; opens: boolean }[] = []
      for (const side of sides) {
        seen.push(await twoCommits(side, expected.named))
      }
      expect(seen[1]).toEqual(seen[0])
      expect(seen[0]?.opens).toBe(expected.opens)
      // n1 is gone by then.
      expect(seen[0]?.name.includes('n1.qcow2')).toBe(!expected.named)
    })
  },
)
