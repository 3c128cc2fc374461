import { expect, test } from 'vitest'
import {
  addDirtyBitmap,
  appendNode,
  type Backend,
  type BlockNode,
  checkNode,
  drain,
  reopenSetReadOnly,
} from '../../src/graph/index.js'
import {
  type BlockJob,
  createActiveCommit,
  createBackup,
  createCommit,
  createMirror,
  createStream,
} from '../../src/jobs/index.js'
import type { Clock } from '../../src/sched/index.js'
import { chainOf, Guest, Machine, read, seeded, settled } from '../jobs/machine.js'

/**
 * Random sequences of jobs under a guest that goes on writing. Jobs are paused, hurried, slowed down,
 * cancelled and failed at random; after each the guest must see what it wrote, the chain must have the
 * expected shape, and a target must hold what the source held at the moment that the job stands for. The disk takes its
 * time in three of four sequences, so that requests stay in flight while jobs begin and end.
 * `JOB_SECONDS` says how long it runs, `JOB_SEED` where it begins.
 */
const seconds = Number(process.env.JOB_SECONDS ?? 8)
const firstSeed = Number(process.env.JOB_SEED ?? 1)

const size = 256 * 1024
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

async function turns(count: number): Promise<void> {
  for (let left = count; left > 0; left--) {
    await turn()
  }
}

/** Time goes by a hundred times as fast. */
const hasty: Clock = {
  now: () => performance.now() * 1e8,
  after: (nanoseconds, callback) => {
    const timer = setTimeout(callback, nanoseconds / 1e8)
    return () => {
      clearTimeout(timer)
    }
  },
}

class Sequence {
  readonly random: (below: number) => number
  readonly machine: Machine
  readonly log: string[] = []
  /** Names of the chain, the top one first. */
  chain: string[] = []
  device!: Backend
  guest!: Guest
  #files = 0
  readonly #favourite: number | undefined
  /** How often something may still go wrong. */
  #faults = 0
  /** Path whose writes fail now and then. */
  #failing: string | undefined = undefined
  /** The last complete backup that the bitmap counts from. */
  #backup: string | undefined = undefined

  constructor(seed: number) {
    this.random = seeded(seed)
    this.#favourite = [9, 5, undefined][seed % 3]
    const chance = seeded(seed + 104729)
    // How slow the disk is: turns of the event loop that a request may take to have its effect, and to be answered.
    const slowest = [0, 3, 12, 60][seed % 4] ?? 0
    const often = 2 + chance(12)
    this.machine = new Machine({
      ...(slowest === 0
        ? {}
        : { hold: () => (chance(often) === 0 ? turns(1 + chance(slowest)) : undefined) }),
      clock: hasty,
      // Without it what is not held is done at once.
      delay: () => (seed % 8 < 5 && chance(4) === 0 ? 1 + chance(4) : 0),
      fault: ({ kind, path }) =>
        kind === 'write' &&
        path === this.#failing &&
        this.#faults > 0 &&
        chance(12) === 0 &&
        this.#faults-- > 0
          ? 'ENOSPC'
          : undefined,
    })
  }

  #name(): string {
    return `/${this.#files++}`
  }

  #clusterSize(): number {
    return 512 << this.random(8)
  }

  async start(): Promise<void> {
    // From then on it may be the guest's own image, and nobody knows what is left of a write that fails; or it is closed
    // for writing, which fails as well.
    this.machine.layer.events.on(({ data }) => {
      if (data.status === 'pending' || data.status === 'aborting') {
        this.#failing = undefined
      }
    })
    const names = Array.from({ length: 2 + this.random(3) }, () => this.#name())
    this.device = await this.machine.chain(
      names.map((name) => ({ name, size, clusterSize: this.#clusterSize() })),
      async (_, write) => {
        for (let i = 0; i < 6; i++) {
          const bytes = 512 * (1 + this.random(40))
          await write(512 * this.random(size / 512 - 40), new Uint8Array(bytes).fill(1 + this.random(255)))
        }
      },
    )
    this.chain = names.toReversed()
    this.guest = new Guest(this.device, await read(this.device), this.random(1 << 20)).start()
  }

  #image(depth: number): BlockNode {
    let at = this.device.node
    for (let i = 0; i < depth; i++) {
      at = at.backing ?? at
    }
    return at
  }

  async #overlay(): Promise<void> {
    const name = this.#name()
    const backing = this.chain[0] ?? ''
    await this.machine.create({ name, size, clusterSize: this.#clusterSize(), backing })
    this.chain.unshift(name)
    this.#backup = undefined
    if (this.random(2) === 0) {
      await this.#overlayInUse(name)
      return
    }
    await this.guest.stop()
    await this.device.close()
    this.device = await this.machine.device(name)
    this.guest = new Guest(this.device, this.guest.model, this.random(1 << 20)).start()
  }

  /** The guest goes on writing while the overlay comes. */
  async #overlayInUse(name: string): Promise<void> {
    this.log.push(`overlay ${name}`)
    const { layer } = this.machine
    const overlay = await layer.open(name, { driver: 'qcow2', backing: null } as never, {
      write: true,
      unmap: true,
    })
    const { node } = this.device
    await settled(node.flush())
    await appendNode(overlay, node)
    await reopenSetReadOnly(node, true)
    await layer.unref(overlay)
  }

  async #target(backing?: string): Promise<{ name: string; node: BlockNode }> {
    const name = this.#name()
    await this.machine.create({
      ...{ name, size, clusterSize: this.#clusterSize() },
      ...(backing === undefined ? {} : { backing }),
    })
    const node = await this.machine.layer.open(name, { driver: 'qcow2' }, { write: true, unmap: true })
    return { name, node }
  }

  /** Does this and that to a job until it is over; returns whether it succeeded, and whether it pivoted. */
  async #drive(job: BlockJob): Promise<{ succeeded: boolean; completed: boolean }> {
    let completed = false
    const give = this.random(5) < 2
    let over = false
    const late = Date.now() + 20_000
    const end = job.wait().then(
      () => true,
      (error: { code?: string }) => {
        this.log.push(`  failed: ${error.code}`)
        return false
      },
    )
    void end.then(() => {
      over = true
    })
    for (let rounds = 0; !over; rounds++) {
      await turn()
      const hurry = rounds > 1500
      if (hurry) {
        // A mirror need not keep up with a guest that writes faster than it copies.
        this.guest.pace = 20_000
      }
      const action = this.random(40)
      const active = ['running', 'ready', 'paused', 'standby'].includes(job.status)
      if (Date.now() > late) {
        throw new Error(
          `the job does not end: ${JSON.stringify(job.blockInfo())} ${job.isUserPaused} ${this.machine.told('j').slice(-12).join()}`,
        )
      }
      if (job.isUserPaused && active && this.random(3) === 0) {
        job.resume()
      } else if (active && !job.isUserPaused && action === 0) {
        job.pause()
      } else if (active && action === 1) {
        job.setSpeed(hurry ? 0 : ([0, 1 << 15, 1 << 17][this.random(3)] ?? 0))
      } else if (give && active && action < 5 && !job.cancelRequested) {
        this.log.push('  cancel')
        job.cancelAsBlockJob(true)
      } else if (job.status === 'ready' && action < 10 && !job.cancelRequested && !completed) {
        if (this.random(3) === 0) {
          this.log.push('  soft cancel')
          job.cancelAsBlockJob()
        } else {
          await job.complete()
          completed = true
        }
      }
    }
    return { succeeded: await end, completed }
  }

  async #stream(): Promise<void> {
    const top = this.random(this.chain.length)
    const base = top + 1 + this.random(this.chain.length - top)
    this.log.push(`stream of ${top} down to ${base}`)
    // What the guest reads is copied, too: faults would be its faults.
    const job = await createStream({
      node: this.#image(top),
      base: base === this.chain.length ? undefined : this.#image(base),
      jobId: 'j',
      onError: 'stop',
    })
    job.start()
    const { succeeded } = await this.#drive(job)
    if (succeeded) {
      this.chain.splice(top + 1, base - top - 1)
    }
  }

  async #commit(): Promise<void> {
    const base = 1 + this.random(this.chain.length - 1)
    const top = this.random(base)
    this.log.push(`commit of ${top} into ${base}`)
    this.#failing = this.random(3) === 0 ? this.chain[base] : undefined
    const { node } = this.device
    const common = { node, base: this.#image(base), jobId: 'j', onError: 'stop' } as const
    const job =
      top === 0 ? await createActiveCommit(common) : await createCommit({ ...common, top: this.#image(top) })
    job.start()
    const { succeeded, completed } = await this.#drive(job)
    if (succeeded && (top > 0 || completed)) {
      this.chain.splice(top, base - top)
    }
    if (succeeded && top === 0 && completed) {
      this.#backup = undefined
    }
  }

  async #mirror(): Promise<void> {
    const copyMode = this.random(2) === 0 ? 'background' : 'write-blocking'
    const sync = this.chain.length > 1 && this.random(2) === 0 ? 'top' : 'full'
    const { name, node } = await this.#target(sync === 'top' ? this.chain[1] : undefined)
    this.log.push(`mirror ${sync} ${copyMode} to ${name}`)
    this.#failing = this.random(3) === 0 ? name : undefined
    const job = await createMirror({
      ...{ node: this.device.node, target: node, sync, copyMode, jobId: 'j', onTargetError: 'stop' },
      ...(this.random(2) === 0 ? { granularity: 512 << this.random(8) } : {}),
      bufferBytes: 1 << (12 + this.random(10)),
      // A target with its own open backing file is left alone.
      backing: 'leave',
      unmap: this.random(2) === 0,
    })
    let then: Uint8Array | undefined
    const off = this.machine.layer.events.on(({ data }) => {
      if (data.id === 'j' && data.status === 'pending') {
        then = this.guest.model.slice()
      }
    })
    job.start()
    const { succeeded, completed } = await this.#drive(job)
    off()
    this.#failing = undefined
    await this.machine.layer.unref(node)
    if (succeeded && completed) {
      this.chain = sync === 'top' ? [name, ...this.chain.slice(1)] : [name]
      this.#backup = undefined
    } else if (succeeded) {
      expect(Buffer.compare(await this.machine.contents(name), then ?? new Uint8Array(0))).toBe(0)
    }
  }

  async #backUp(): Promise<void> {
    const incremental = this.#backup !== undefined && this.random(4) !== 0
    const sync = incremental ? 'incremental' : this.chain.length > 1 && this.random(3) === 0 ? 'top' : 'full'
    const backing = incremental ? this.#backup : sync === 'top' ? this.chain[1] : undefined
    const { name, node } = await this.#target(backing)
    this.log.push(`backup ${sync} to ${name}`)
    this.#failing = this.random(3) === 0 ? name : undefined
    this.guest.mayFail ||= this.#failing !== undefined
    const bitmap = this.device.node.dirtyBitmaps
    if (bitmap.find('x') === undefined) {
      await addDirtyBitmap(this.device.node, { name: 'x', granularity: 512 << this.random(8) })
    }
    const section = await drain([this.device.node])
    await turn()
    const then = this.guest.model.slice()
    let job: BlockJob
    try {
      job = await createBackup({
        ...{ node: this.device.node, target: node, sync, jobId: 'j', onTargetError: 'stop' },
        ...(incremental ? {} : sync === 'full' ? { bitmapMode: 'on-success' } : {}),
        ...(sync === 'top' ? {} : { bitmap: 'x' }),
        compress: this.random(4) === 0,
        maxWorkers: 1 + this.random(4),
      })
    } finally {
      section.end()
    }
    job.start()
    const { succeeded } = await this.#drive(job)
    this.#failing = undefined
    await this.machine.layer.unref(node)
    if (succeeded) {
      expect(Buffer.compare(await this.machine.contents(name), then)).toBe(0)
      if (sync !== 'top') {
        this.#backup = name
      }
    }
  }

  async step(): Promise<void> {
    this.#faults = this.random(4)
    this.guest.pace = [1, 20, 300][this.random(3)] ?? 1
    await turns(this.random(300))
    // Some sequences are about one kind of job above all.
    const kind = this.random(5) < 4 ? (this.#favourite ?? this.random(10)) : this.random(10)
    if (this.chain.length < 2 || (kind === 0 && this.chain.length < 5)) {
      await this.#overlay()
    } else if (kind < 3) {
      await this.#stream()
    } else if (kind < 5) {
      await this.#commit()
    } else if (kind < 7) {
      await this.#mirror()
    } else {
      await this.#backUp()
    }
    this.#failing = undefined
    // A write that was lost may be written over soon.
    await this.guest.stop()
    expect(Buffer.compare(await read(this.device), this.guest.model)).toBe(0)
    this.guest.start(1 + this.random(6))
    expect(chainOf(this.device.node)).toEqual(this.chain)
    expect(this.machine.layer.nodes.size).toBe(2 * this.chain.length)
  }

  async finish(): Promise<void> {
    await this.guest.stop()
    expect(Buffer.compare(await read(this.device), this.guest.model)).toBe(0)
    for (let depth = 0; depth < this.chain.length; depth++) {
      const result = await checkNode(this.#image(depth), { leaks: false, errors: false })
      expect(result).toMatchObject({ corruptions: 0, checkErrors: 0 })
    }
    await this.device.close()
    expect(Buffer.compare(await this.machine.contents(this.chain[0] ?? ''), this.guest.model)).toBe(0)
    expect(this.machine.layer.nodes.size).toBe(0)
  }
}

test(
  'random jobs under a guest that writes',
  async () => {
    const end = Date.now() + seconds * 1000
    let jobs = 0
    for (let seed = firstSeed; Date.now() < end; seed++) {
      const sequence = new Sequence(seed)
      try {
        await sequence.start()
        for (let step = 0; step < 8; step++, jobs++) {
          await sequence.step()
        }
        await sequence.finish()
      } catch (error) {
        const log = sequence.log.join('\n')
        throw new Error(`seed ${seed}: ${error instanceof Error ? error.stack : ''}\n${log}`, {
          cause: error,
        })
      }
    }
    if (process.env.JOB_SECONDS !== undefined) {
      process.stderr.write(`${jobs} jobs from seed ${firstSeed} on\n`)
    }
    expect(jobs).toBeGreaterThan(5)
  },
  seconds * 1000 + 60_000,
)
