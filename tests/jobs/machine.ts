import { allDrivers } from '../../src/all-drivers.js'
import {
  Backend,
  type BlockEvent,
  type BlockLayer,
  type BlockNode,
  createBlockLayer,
  createWithDriver,
} from '../../src/graph/index.js'
import type { BlockJob } from '../../src/jobs/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { MemoryHost, type MemoryHostOptions } from '../../src/testing/index.js'

const codecs = createNodeHost().codecs

export function seeded(seed: number): (below: number) => number {
  let state = (seed * 2654435761) >>> 0
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

export async function settled(wait: Promise<void> | undefined): Promise<void> {
  if (wait !== undefined) {
    await wait
  }
}

export interface ImageToMake {
  readonly name: string
  readonly size: number
  readonly backing?: string
  readonly format?: string
  readonly clusterSize?: number
}

/** A layer on files in memory, and what happens in it. */
export class Machine {
  readonly host: MemoryHost
  readonly layer: BlockLayer
  readonly events: BlockEvent[] = []

  constructor(options: MemoryHostOptions = {}) {
    this.host = new MemoryHost({ codecs, ...options })
    this.layer = createBlockLayer({ host: this.host, drivers: allDrivers })
    this.layer.events.on((event) => this.events.push(event))
  }

  async create({ name, size, backing, format = 'qcow2', clusterSize }: ImageToMake): Promise<void> {
    const driver = this.layer.findFormat(format)
    if (driver === undefined) {
      throw new Error(`no driver ${format}`)
    }
    await createWithDriver(this.layer, driver, name, {
      size,
      ...(clusterSize === undefined ? {} : { cluster_size: clusterSize }),
      ...(backing === undefined ? {} : { backing_file: backing, backing_fmt: 'qcow2' }),
    })
  }

  /** A chain of images, the bottom one first, each filled by `fill`; returns a device on the top one. */
  async chain(
    images: readonly ImageToMake[],
    fill: (at: number, write: (offset: number, data: Uint8Array) => Promise<void>) => Promise<void>,
  ): Promise<Backend> {
    let below: string | undefined
    for (const [at, image] of images.entries()) {
      await this.create({ ...image, ...(below === undefined ? {} : { backing: below }) })
      const open = await Backend.open(this.layer, image.name, { driver: 'qcow2' }, { write: true })
      await fill(at, (offset, data) => settled(open.write(offset, data.length, data)))
      await open.close()
      below = image.name
    }
    return await this.device(below ?? '')
  }

  async device(name: string, options: object = {}): Promise<Backend> {
    return await Backend.open(
      this.layer,
      name,
      { driver: 'qcow2', ...options } as never,
      { write: true, unmap: true },
      { name: `d${this.layer.backends.size}` },
    )
  }

  /** Everything that the image called `name` shows, opened anew. */
  async contents(name: string, options: object = { driver: 'qcow2' }): Promise<Uint8Array> {
    const open = await Backend.open(this.layer, name, { ...options, 'force-share': true } as never)
    try {
      return await read(open)
    } finally {
      await open.close()
    }
  }

  /** Names of events in order, of status changes the status. */
  told(id: string): string[] {
    return this.events
      .filter(({ data }) => data.id === id || data.device === id)
      .map(({ event, data }) => (event === 'JOB_STATUS_CHANGE' ? String(data.status) : event))
  }
}

export async function read(open: Backend): Promise<Uint8Array> {
  const buffer = new Uint8Array(open.length)
  await settled(open.read(0, buffer.length, buffer))
  return buffer
}

/** Names of the files of a chain from `node` down. */
export function chainOf(node: BlockNode): string[] {
  const names: string[] = []
  for (let at: BlockNode | undefined = node; at !== undefined; at = at.backing ?? at.filterNode) {
    names.push(at.isFilter ? (at.driver?.name ?? '') : (at.file?.filename ?? at.filename))
  }
  return names
}

/** Waits until the job is ready, or over. */
export async function untilReady(job: BlockJob): Promise<void> {
  while (!job.isReady && job.status !== 'concluded' && job.status !== 'null') {
    await new Promise((resolve) => setImmediate(resolve))
  }
}

/** A guest that writes random ranges until it is stopped; `model` is what the device must show. */
export class Guest {
  readonly #device: Backend
  readonly #random: (below: number) => number
  readonly model: Uint8Array
  readonly #lanes: Promise<void>[] = []
  #stop = false
  writes = 0
  /** Writes may fail without an effect: what they overwrite could not be saved. */
  mayFail = false
  /** Turns of the event loop between two writes of a lane, at most. */
  pace = 1

  constructor(device: Backend, model: Uint8Array, seed: number) {
    this.#device = device
    this.model = model
    this.#random = seeded(seed)
  }

  /** `lanes` writers that never touch each other's sectors. */
  start(lanes = 3): this {
    this.#stop = false
    for (let lane = 0; lane < lanes; lane++) {
      this.#lanes.push(this.#run(lane, lanes))
    }
    return this
  }

  async #run(lane: number, lanes: number): Promise<void> {
    const sectors = this.model.length / 512
    while (!this.#stop) {
      const runs = Math.floor(sectors / (lanes * 8))
      const start = (this.#random(runs) * lanes + lane) * 8 + this.#random(4)
      const bytes = 512 * (1 + this.#random(4))
      const offset = start * 512
      const kind = this.#random(8)
      const value = kind === 0 ? 0 : 1 + this.#random(255)
      if (kind === 0) {
        if (
          !(await this.#write(() => this.#device.writeZeroes(offset, bytes, this.#random(2) === 0 ? 0 : 4)))
        ) {
          continue
        }
      } else if (kind === 1) {
        const seen = new Uint8Array(bytes)
        await settled(this.#device.read(offset, bytes, seen))
        if (Buffer.compare(seen, this.model.subarray(offset, offset + bytes)) !== 0) {
          throw new Error(`the guest reads something else than it wrote at ${offset}`)
        }
        continue
      } else if (
        !(await this.#write(() => this.#device.write(offset, bytes, new Uint8Array(bytes).fill(value))))
      ) {
        continue
      }
      this.model.fill(value, offset, offset + bytes)
      this.writes++
      for (let turns = this.#random(this.pace) + 1; turns > 0 && !this.#stop; turns--) {
        await new Promise((resolve) => setImmediate(resolve))
      }
    }
  }

  /** Returns whether it was written. */
  async #write(write: () => Promise<void> | undefined): Promise<boolean> {
    try {
      await settled(write())
      return true
    } catch (error) {
      if (this.mayFail) {
        return false
      }
      throw error
    }
  }

  /** Settles when nothing is in flight. Throws what went wrong. */
  async stop(): Promise<void> {
    this.#stop = true
    await Promise.all(this.#lanes.splice(0))
  }
}
