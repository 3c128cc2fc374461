import { allDrivers } from '../../src/all-drivers.js'
import { isBlockError } from '../../src/errors/index.js'
import {
  addDirtyBitmap,
  amendNode,
  applySnapshot,
  type BlockLayer,
  type BlockNode,
  createBlockLayer,
  createSnapshot,
  createWithDriver,
  listSnapshots,
  removeDirtyBitmap,
  removeSnapshot,
  truncateNode,
} from '../../src/graph/index.js'
import { commitNode } from '../../src/image/commit.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { CrashLog, MemoryHost, type MemoryOperation } from '../../src/testing/index.js'

export const sector = 512
export const guestSectors = 64
export const maxSectors = 96
export const imagePath = '/image.qcow2'
export const basePath = '/base'
const codecs = createNodeHost().codecs

/** A step of a workload; sectors count from 0. */
export type Step =
  | readonly ['write', first: number, count: number]
  | readonly ['zero' | 'unmap' | 'discard', first: number, count: number]
  | readonly ['flush' | 'reopen' | 'commit']
  | readonly ['snapshot' | 'apply' | 'delete', name: string]
  | readonly ['bitmap' | 'remove bitmap', name: string]
  | readonly ['resize', sectors: number]
  | readonly ['amend', options: Workload['options']]

export interface Workload {
  readonly options: Readonly<Record<string, string | number | boolean>>
  /** The image lies on a raw file with contents. */
  readonly backed?: boolean
  readonly steps: readonly Step[]
}

/** A sector that says which guest sector it belongs to and which write made it. */
function stamp(guest: number, generation: number): Uint8Array {
  const bytes = new Uint8Array(sector)
  const view = new DataView(bytes.buffer)
  for (let at = 0; at < sector; at += 8) {
    view.setUint32(at, guest + 1)
    view.setUint32(at + 4, generation)
  }
  return bytes
}

function baseContents(): Uint8Array {
  const bytes = new Uint8Array(guestSectors * sector)
  for (let guest = 0; guest < guestSectors; guest++) {
    bytes.set(stamp(guest, 1), guest * sector)
  }
  return bytes
}

/** What may be seen at a time: of each sector the generation of a write, 0 for zeroes. */
export interface Possible {
  /** Operations on the image recorded until then. */
  readonly at: number
  readonly sectors: readonly ReadonlySet<number>[]
  readonly lengths: ReadonlySet<number>
  readonly snapshots: ReadonlyMap<string, Snapshot>
}

/** A snapshot that may be there. */
export interface Snapshot {
  readonly contents: readonly number[]
  /** Sectors of the disk when it was taken. */
  readonly length: number
  /** It must be there. */
  readonly certain: boolean
}

class Model {
  current: number[]
  #possible: Set<number>[]
  #length: number
  #lengths: Set<number>
  readonly #snapshots = new Map<string, Snapshot>()
  readonly history: Possible[] = []

  constructor(initial: number) {
    const start = (guest: number) => (guest < guestSectors ? initial : 0)
    this.current = Array.from({ length: maxSectors }, (_, guest) => start(guest))
    this.#possible = this.current.map((generation) => new Set([generation]))
    this.#length = guestSectors
    this.#lengths = new Set([guestSectors])
  }

  get length(): number {
    return this.#length
  }

  note(guest: number, generation: number): void {
    this.#possible[guest]?.add(generation)
    this.current[guest] = generation
  }

  resize(sectors: number): void {
    for (let guest = sectors; guest < maxSectors; guest++) {
      this.note(guest, 0)
    }
    this.#length = sectors
    this.#lengths.add(sectors)
  }

  setSnapshot(name: string, certain: boolean, contents: readonly number[]): void {
    this.#snapshots.set(name, { certain, contents, length: this.#length })
  }

  /** The guest goes back to a snapshot. */
  apply(name: string): void {
    const snapshot = this.#snapshots.get(name)
    if (snapshot !== undefined) {
      snapshot.contents.forEach((generation, guest) => {
        this.note(guest, generation)
      })
      this.resize(snapshot.length)
    }
  }

  /** Where a step that was refused has left things: what it noted stays possible. */
  restore(current: readonly number[], length: number): void {
    this.current = [...current]
    this.#length = length
  }

  mayBeGone(name: string): void {
    const snapshot = this.#snapshots.get(name)
    if (snapshot !== undefined) {
      this.#snapshots.set(name, { ...snapshot, certain: false })
    }
  }

  drop(name: string): void {
    this.#snapshots.delete(name)
  }

  flushed(): void {
    this.#possible = this.current.map((generation) => new Set([generation]))
    this.#lengths = new Set([this.#length])
  }

  save(at: number): void {
    this.history.push({
      at,
      sectors: this.#possible.map((set) => new Set(set)),
      lengths: new Set(this.#lengths),
      snapshots: new Map(this.#snapshots),
    })
  }
}

/** What was done to the base file, and how much of the image's log was there at the time. */
export class BaseLog {
  readonly #operations: { readonly at: number; readonly operation: MemoryOperation }[] = []

  record(at: number, operation: MemoryOperation): void {
    this.#operations.push({ at, operation })
  }

  /**
   * The base when `issued` operations on the image had been issued: all that was written to it, or
   * only what was flushed.
   */
  contents(issued: number, all: boolean): Uint8Array {
    const before = this.#operations.filter(({ at }) => at < issued)
    const flushed = before.findLastIndex(({ operation }) => operation.kind === 'flush')
    const bytes = baseContents()
    for (const { operation } of all ? before : before.slice(0, flushed + 1)) {
      if (operation.kind === 'write') {
        bytes.set(operation.data, operation.offset)
      } else if (operation.kind === 'zero') {
        bytes.fill(0, operation.offset, operation.offset + operation.bytes)
      }
    }
    return bytes
  }
}

export interface Recorded {
  readonly log: CrashLog
  readonly base: BaseLog | undefined
  readonly history: readonly Possible[]
  /** References to clusters changed in number, and with them COPIED flags. */
  readonly flagsMayLag: boolean
  /** Refcounts need not be right before a repair, which opening for writing does. */
  readonly lazy: boolean
  /** Steps that were refused, by their name. */
  readonly refused: readonly string[]
}

function snapshotOf(name: string) {
  return { id: '', name, dateSeconds: 1, dateNanoseconds: 0, vmClockNanoseconds: 0n, vmStateSize: 0 }
}

class Run {
  readonly log = new CrashLog()
  readonly base = new BaseLog()
  readonly refused: string[] = []
  readonly #host: MemoryHost
  readonly layer: BlockLayer
  readonly #backed: boolean
  readonly model: Model
  #node: BlockNode | undefined
  #generation = 1

  constructor(backed: boolean) {
    this.#backed = backed
    this.model = new Model(backed ? 1 : 0)
    this.#host = new MemoryHost({
      codecs,
      log: (operation) => {
        if (operation.path === imagePath) {
          this.log.record(operation)
        } else if (operation.path === basePath) {
          this.base.record(this.log.length, operation)
        }
      },
    })
    this.layer = createBlockLayer({ host: this.#host, drivers: allDrivers })
  }

  get node(): BlockNode {
    if (this.#node === undefined) {
      throw new Error('not open')
    }
    return this.#node
  }

  async create(options: Workload['options']): Promise<void> {
    const driver = this.layer.findFormat('qcow2')
    if (driver === undefined) {
      throw new Error('no qcow2')
    }
    await createWithDriver(this.layer, driver, imagePath, {
      size: guestSectors * sector,
      ...options,
      ...(this.#backed ? { backing_file: basePath, backing_fmt: 'raw' } : {}),
    })
    this.#host.put(basePath, baseContents())
  }

  async open(): Promise<void> {
    const options = { driver: 'qcow2', discard: 'unmap', 'l2-cache-size': 2048 }
    this.#node = await this.layer.open(imagePath, options, { write: true })
  }

  async close(): Promise<void> {
    const { node } = this
    this.#node = undefined
    await this.layer.unref(node)
  }

  /** Carries out a step; what the model must allow meanwhile is noted before, what must hold then, after it. */
  async step(step: Step): Promise<void> {
    const { model, log } = this
    const current = [...model.current]
    const { length } = model
    try {
      await this.#carryOut(step)
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
      this.refused.push(step[0])
      model.restore(current, length)
    }
    model.save(log.length)
  }

  async #carryOut(step: Step): Promise<void> {
    const { model, log } = this
    switch (step[0]) {
      case 'write': {
        const count = Math.min(step[2], model.length - step[1])
        if (count <= 0) {
          return
        }
        const data = new Uint8Array(count * sector)
        this.#generation++
        for (let i = 0; i < count; i++) {
          data.set(stamp(step[1] + i, this.#generation), i * sector)
          model.note(step[1] + i, this.#generation)
        }
        model.save(log.length)
        await this.node.write(step[1] * sector, data.length, data, 0, 0)
        return
      }
      case 'zero':
      case 'unmap':
      case 'discard':
        await this.#zero(step[0], step[1], Math.min(step[2], model.length - step[1]))
        return
      case 'flush':
        await this.node.flush()
        model.flushed()
        return
      case 'reopen':
        await this.close()
        model.flushed()
        model.save(log.length)
        await this.open()
        return
      case 'commit':
        await commitNode(this.node)
        return
      case 'resize':
        model.resize(step[1])
        model.save(log.length)
        await truncateNode(this.node, step[1] * sector, { exact: true, preallocation: 'off', zero: false })
        return
      case 'amend':
        await amendNode({ node: this.node, options: step[1], force: false })
        return
      case 'bitmap':
        await addDirtyBitmap(this.node, { name: step[1], granularity: 512, persistent: true })
        return
      case 'remove bitmap': {
        const bitmap = this.node.dirtyBitmaps.find(step[1])
        if (bitmap !== undefined) {
          await removeDirtyBitmap(bitmap)
        }
        return
      }
      default:
        await this.#snapshot(step[0], step[1])
    }
  }

  async #zero(kind: 'zero' | 'unmap' | 'discard', first: number, count: number): Promise<void> {
    if (count <= 0) {
      return
    }
    for (let i = 0; i < count; i++) {
      this.model.note(first + i, 0)
    }
    this.model.save(this.log.length)
    if (kind === 'discard') {
      await this.node.discard(first * sector, count * sector)
    } else {
      await this.node.writeZeroes(first * sector, count * sector, kind === 'unmap' ? 4 : 0)
    }
  }

  async #snapshot(kind: 'snapshot' | 'apply' | 'delete', name: string): Promise<void> {
    const { model, log, node } = this
    const found = (listSnapshots(node) ?? []).find((one) => one.name === name)
    if ((kind === 'snapshot') === (found !== undefined)) {
      return
    }
    if (kind === 'snapshot') {
      model.setSnapshot(name, false, [...model.current])
      model.save(log.length)
      await createSnapshot(node, snapshotOf(name))
      model.setSnapshot(name, true, [...model.current])
      return
    }
    if (kind === 'delete') {
      model.mayBeGone(name)
      model.save(log.length)
      await removeSnapshot(node, found?.id ?? '', name)
      model.drop(name)
      return
    }
    model.apply(name)
    model.save(log.length)
    await applySnapshot(node, name)
  }
}

/** Runs a workload and records what reaches the file. */
export async function record(workload: Workload): Promise<Recorded> {
  const run = new Run(workload.backed === true)
  await run.create(workload.options)
  run.model.save(run.log.length)
  await run.open()
  for (const step of workload.steps) {
    await run.step(step)
  }
  await run.close()
  run.model.flushed()
  run.model.save(run.log.length)
  return {
    log: run.log,
    base: workload.backed === true ? run.base : undefined,
    history: run.model.history,
    flagsMayLag: workload.steps.some(([kind]) => kind === 'snapshot'),
    lazy: workload.options.lazy_refcounts === true,
    refused: run.refused,
  }
}
