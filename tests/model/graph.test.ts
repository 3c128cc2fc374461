import { expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import {
  appendNode,
  Backend,
  type BlockLayer,
  type BlockNode,
  checkNode,
  createBlockLayer,
  createWithDriver,
  type DirtyBitmap,
  drain,
  dropIntermediate,
  Perm,
  reopenNode,
  reopenSetReadOnly,
  replaceNode,
  truncateNode,
} from '../../src/graph/index.js'
import { commitNode, rebaseImage } from '../../src/image/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { MemoryHost } from '../../src/testing/index.js'

/**
 * Random sequences of graph operations under a device whose guest goes on reading and writing: the guest
 * must see exactly what it wrote, through whatever the graph has become; after each step the chain must
 * have the expected shape; bitmaps must hold exactly what was written meanwhile; operations that must
 * be refused must say why and change nothing; and in the end all images must be sound. `MODEL_SEQUENCES` says how many sequences are run, `MODEL_SEED` which is the first.
 */
const sequences = Number(process.env.MODEL_SEQUENCES ?? 40)
const firstSeed = Number(process.env.MODEL_SEED ?? 1)

const codecs = createNodeHost().codecs
const sector = 512
const clusterSize = 1024
const startSectors = 96
/** Bytes for each bit of the bitmaps. */
const granularity = 1024
const exact = { exact: true, preallocation: 'off', zero: false } as const
/** Each lane of the guest owns every third run of this many sectors: lanes share clusters, never sectors. */
const runSectors = 3
const lanes = 3

function seeded(seed: number): (below: number) => number {
  let state = (seed * 2654435761) >>> 0
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

async function settled(wait: Promise<void> | undefined): Promise<void> {
  if (wait !== undefined) {
    await wait
  }
}

class Machine {
  readonly host: MemoryHost
  readonly layer: BlockLayer
  readonly random: (below: number) => number
  readonly log: string[] = []
  /** What the guest has written. */
  model = new Uint8Array(startSectors * sector)
  device: Backend
  /** Names of the images that the chain should consist of, the top one first. */
  chain: string[] = ['/0']
  /** Granules written since the watched bitmap was made. */
  #written: Set<number> | undefined
  /** Set while the device is being changed for another: lanes wait. */
  #gate: Promise<void> | undefined
  #active = 0
  #files = 0
  #stop = false

  constructor(seed: number) {
    this.random = seeded(seed)
    const delays = seeded(seed + 7919)
    this.host = new MemoryHost({ codecs, delay: () => (delays(3) === 0 ? 1 + delays(6) : 0) })
    this.layer = createBlockLayer({ host: this.host, drivers: allDrivers })
    this.device = this.#newDevice()
  }

  #newDevice(): Backend {
    return new Backend(this.layer, { name: 'disk', perm: Perm.consistentRead | Perm.write })
  }

  get top(): BlockNode {
    return this.device.node
  }

  async start(): Promise<void> {
    const base = new Uint8Array(this.model.length)
    for (let at = 0; at < base.length; at++) {
      base[at] = this.random(256)
    }
    this.host.put('/0', base)
    this.model.set(base)
    const node = await this.layer.open('/0', { driver: 'raw' }, { write: true })
    await this.device.insert(node)
    await this.layer.unref(node)
    await this.snapshot()
  }

  /** One lane of the guest: one request after the other. */
  async lane(number: number, requests: number, random: (below: number) => number): Promise<void> {
    for (let i = 0; i < requests && !this.#stop; i++) {
      while (this.#gate !== undefined) {
        await this.#gate
      }
      this.#active++
      try {
        await this.#request(number, random)
      } finally {
        this.#active--
      }
      await Promise.resolve()
    }
  }

  async #request(number: number, random: (below: number) => number): Promise<void> {
    const runs = Math.floor(this.model.length / sector / runSectors / lanes)
    const run = random(runs) * lanes + number
    const first = random(runSectors)
    const count = 1 + random(runSectors - first)
    const offset = (run * runSectors + first) * sector
    const bytes = count * sector
    const action = random(10)
    const place = `lane ${number} ${offset}+${bytes}`
    if (action < 5) {
      const data = new Uint8Array(bytes).fill(1 + random(255))
      await settled(this.device.write(offset, bytes, data))
      this.model.set(data, offset)
      this.#wrote(offset, bytes)
      this.log.push(`${place} write ${data[0]}`)
    } else if (action < 6) {
      await settled(this.device.writeZeroes(offset, bytes, random(2) * 4))
      this.model.fill(0, offset, offset + bytes)
      this.#wrote(offset, bytes)
      this.log.push(`${place} zero`)
    } else if (action < 9) {
      const data = new Uint8Array(bytes)
      await settled(this.device.read(offset, bytes, data))
      if (Buffer.compare(data, this.model.subarray(offset, offset + bytes)) !== 0) {
        throw new Error(`${place} reads ${data[0]}, expected ${this.model[offset]}`)
      }
    } else {
      await settled(this.device.flush())
    }
  }

  #wrote(offset: number, bytes: number): void {
    if (this.#written !== undefined) {
      const last = Math.floor((offset + bytes - 1) / granularity)
      for (let granule = Math.floor(offset / granularity); granule <= last; granule++) {
        this.#written.add(granule)
      }
    }
  }

  /** Runs `change` while no request of the guest is in flight. */
  async #quiet(change: () => Promise<void> | void): Promise<void> {
    let open: () => void = () => undefined
    this.#gate = new Promise((resolve) => {
      open = resolve
    })
    while (this.#active > 0) {
      await Promise.resolve()
    }
    try {
      await change()
    } finally {
      this.#gate = undefined
      open()
    }
  }

  /** Stops the lanes at their next request. */
  stop(): void {
    this.#stop = true
  }

  async #newImage(backing: BlockNode | undefined, size: number): Promise<string> {
    const path = `/${++this.#files}`
    const driver = this.layer.findFormat('qcow2')
    if (driver === undefined) {
      throw new Error('no qcow2')
    }
    await createWithDriver(this.layer, driver, path, {
      size,
      cluster_size: clusterSize,
      compat: this.random(3) === 0 ? '0.10' : '1.1',
      ...(backing === undefined
        ? {}
        : { backing_file: backing.filename, backing_fmt: backing.driver?.name ?? '' }),
    })
    return path
  }

  async snapshot(): Promise<void> {
    const { top } = this
    const path = await this.#newImage(top, top.length)
    const overlay = await this.layer.open(
      path,
      { driver: 'qcow2', backing: null },
      { write: true, noBacking: true },
    )
    overlay.flags.noBacking = false
    await appendNode(overlay, top)
    await this.layer.unref(overlay)
    this.chain.unshift(path)
    await reopenSetReadOnly(top, true)
  }

  async commit(): Promise<void> {
    if (this.top.backing !== undefined) {
      await commitNode(this.top)
    }
  }

  /** Commit of the active image that ends with the device on the base. */
  async commitAndPivot(): Promise<void> {
    const { top } = this
    const base = top.backing as BlockNode | undefined
    if (base === undefined || base.driver?.name !== 'qcow2') {
      return
    }
    const section = await drain([top])
    try {
      await commitNode(top, { keep: true })
      await reopenSetReadOnly(base, false)
      await replaceNode(top, base)
      this.chain.shift()
    } finally {
      section.end()
    }
  }

  /** Commit of an image below the top one, which then leaves the chain. */
  async drop(): Promise<void> {
    const { top } = this
    const middle = top.backing as BlockNode | undefined
    const base = middle?.backing as BlockNode | undefined
    if (middle === undefined || base === undefined) {
      return
    }
    // What a job does that has checked that nobody else uses the image.
    middle.opBlockers.unblock('commit-source', top.backingBlocker)
    await commitNode(middle, { keep: true })
    middle.opBlockers.block('commit-source', top.backingBlocker)
    await dropIntermediate(top, middle, base)
    this.chain.splice(1, 1)
  }

  /** Moves the device to a full copy. */
  async mirror(): Promise<void> {
    const { top } = this
    const path = await this.#newImage(undefined, top.length)
    const copy = await this.layer.open(path, { driver: 'qcow2' }, { write: true })
    const section = await drain([top])
    try {
      const buffer = new Uint8Array(top.length)
      await settled(top.read(0, buffer.length, buffer, 0, 0))
      await settled(copy.write(0, buffer.length, buffer, 0, 0))
      await replaceNode(top, copy)
      this.chain = [path]
    } finally {
      section.end()
    }
    await this.layer.unref(copy)
  }

  async reopen(): Promise<void> {
    const { top } = this
    const choices = [
      { 'cache.direct': this.random(2) === 0 },
      { 'detect-zeroes': ['off', 'on'][this.random(2)] ?? 'off' },
      { 'l2-cache-entry-size': 512 << this.random(2), 'l2-cache-size': 2048 },
      { 'lazy-refcounts': false, 'overlap-check': ['none', 'all'][this.random(2)] ?? 'all' },
    ]
    if (top.driver?.name === 'qcow2') {
      await reopenNode(top, choices[this.random(choices.length)] ?? {})
    }
    if (top.backing !== undefined) {
      await reopenSetReadOnly(top.backing as BlockNode, false)
      await reopenSetReadOnly(top.backing as BlockNode, true)
    }
  }

  async grow(): Promise<void> {
    const length = this.model.length + (1 + this.random(8)) * runSectors * lanes * sector
    const { device } = this
    await device.setPermissions(Perm.consistentRead | Perm.write | Perm.resize, Perm.all)
    try {
      await truncateNode(this.top, length, exact)
    } catch (error) {
      // Version 2 has no zero clusters to hide what a longer backing file holds.
      expect((error as { code?: string }).code).toBe('ENOTSUP')
      return
    }
    await device.setPermissions(Perm.consistentRead | Perm.write, Perm.all)
    const grown = new Uint8Array(length)
    grown.set(this.model)
    this.model = grown
  }

  /** Switches the machine off, changes the backing file of its image, and switches it on again. */
  async rebase(): Promise<void> {
    const { top } = this
    const next = top.backing
    if (next === undefined) {
      return
    }
    const lower = (next as BlockNode).backing as BlockNode | undefined
    const target = this.random(2) === 0 || lower === undefined ? undefined : lower
    const path = top.filename
    const options =
      target === undefined ? {} : { backing: target.filename, backingFormat: target.driver?.name }
    await this.#quiet(async () => {
      await this.device.close()
      await rebaseImage(this.layer, { filename: path, format: 'qcow2' }, options)
      this.device = this.#newDevice()
      const node = await this.layer.open(path, { driver: 'qcow2' }, { write: true })
      await this.device.insert(node)
      await this.layer.unref(node)
    })
    this.chain = target === undefined ? [path] : [path, ...this.chain.slice(2)]
  }

  /** Watches what the guest writes for a while with a bitmap that is cleared, switched off and merged. */
  async bitmap(): Promise<void> {
    const { top } = this
    const { dirtyBitmaps } = top
    const { length } = top
    let watched = new Set<number>()
    const bitmap = dirtyBitmaps.create({ name: 'watch', granularity, size: length })
    const all = dirtyBitmaps.create({ granularity, size: length })
    let total = new Set<number>()
    for (let round = 0; round < 3; round++) {
      await this.#quiet(() => {
        if (this.random(3) === 0) {
          bitmap.disable()
        } else {
          bitmap.enable()
        }
        watched = new Set(bitmap.enabled ? [] : this.#dirty(bitmap))
        bitmap.clear()
        for (const granule of watched) {
          bitmap.set(granule * granularity, granularity)
        }
        this.#written = new Set()
      })
      for (let turn = this.random(200); turn > 0; turn--) {
        await Promise.resolve()
      }
      await this.#quiet(() => {
        const written = this.#written ?? new Set()
        this.#written = undefined
        total = new Set([...total, ...written])
        const expected = bitmap.enabled ? written : watched
        expect(this.#dirty(bitmap)).toEqual([...expected].sort((a, b) => a - b))
      })
    }
    // The guest may have written between the rounds: what was counted is in, and nothing it never touched.
    const dirty = new Set(this.#dirty(all))
    expect([...total].filter((granule) => !dirty.has(granule))).toEqual([])
    bitmap.release()
    all.release()
  }

  #dirty(bitmap: DirtyBitmap): number[] {
    const granules: number[] = []
    for (let at = bitmap.nextDirty(0); at >= 0; at = bitmap.nextDirty(at + granularity)) {
      granules.push(at / granularity)
      if (at + granularity >= bitmap.size) {
        break
      }
    }
    return granules
  }

  /** What has to be refused, with its code, and leaves everything as it is. */
  async refused(): Promise<void> {
    const { top } = this
    const base = top.backing as BlockNode | undefined
    const code = async (run: () => Promise<unknown>) => {
      try {
        await run()
      } catch (error) {
        return (error as { code?: string }).code
      }
      return 'done'
    }
    expect(await code(() => reopenNode(top, { 'no-such-option': 'on' }))).toBe('EINVAL')
    expect(await code(() => reopenNode(top, { driver: 'raw' }))).toBe('EINVAL')
    expect(await code(() => dropIntermediate(top, top, top))).toBe('EIO')
    expect(await code(() => truncateNode(top, -512, exact))).toBe('EINVAL')
    expect(await code(() => this.layer.open('/none', { driver: 'qcow2' }))).toBe('ENOENT')
    if (base === undefined) {
      expect(await code(() => commitNode(top))).toBe('ENOTSUP')
    } else {
      expect(await code(() => truncateNode(base, base.length + 512, exact))).toBe('EACCES')
      expect(await code(() => commitNode(base))).not.toBe('done')
    }
  }

  /** The chain as it is, the top one first. */
  get shape(): string[] {
    const names: string[] = []
    for (let node: BlockNode | undefined = this.top; node !== undefined; ) {
      names.push(node.exactFilename)
      node = node.backing as BlockNode | undefined
    }
    return names
  }

  async check(): Promise<void> {
    const buffer = new Uint8Array(this.model.length)
    expect(this.device.length).toBe(buffer.length)
    await settled(this.device.read(0, buffer.length, buffer))
    const at = buffer.findIndex((byte, i) => byte !== this.model[i])
    if (at >= 0) {
      throw new Error(`byte ${at} is ${buffer[at]}, written was ${this.model[at]}`)
    }
    for (let node: BlockNode | undefined = this.top; node?.driver?.name === 'qcow2'; ) {
      const result = await checkNode(node, { leaks: false, errors: false })
      expect([node.name, result.corruptions, result.leaks, result.checkErrors, result.messages]).toEqual([
        node.name,
        0,
        0,
        0,
        [],
      ])
      node = node.backing as BlockNode | undefined
    }
  }
}

const operations = [
  'snapshot',
  'snapshot',
  'commit',
  'commitAndPivot',
  'drop',
  'mirror',
  'reopen',
  'grow',
  'rebase',
  'bitmap',
  'refused',
] as const

async function runSequence(seed: number): Promise<void> {
  const machine = new Machine(seed)
  await machine.start()
  const guest = Promise.all(
    Array.from({ length: lanes }, (_, number) => machine.lane(number, 200, seeded(seed * 31 + number))),
  )
  // A lane that fails is heard of below.
  guest.catch(() => undefined)
  try {
    for (let step = 0; step < 8; step++) {
      const operation = operations[machine.random(operations.length)] ?? 'commit'
      machine.log.push(operation)
      await machine[operation]()
      machine.log.push(`${operation} done`)
      expect(machine.shape).toEqual(machine.chain)
      for (let turn = machine.random(60); turn > 0; turn--) {
        await Promise.resolve()
      }
    }
    machine.stop()
    await guest
    await machine.check()
    const path = machine.top.filename
    await machine.device.close()
    expect([...machine.layer.nodes].map((node) => node.name)).toEqual([])
    machine.device = new Backend(machine.layer, { perm: Perm.consistentRead })
    const node = await machine.layer.open(path)
    await machine.device.insert(node)
    await machine.layer.unref(node)
    await machine.check()
    await machine.device.close()
  } catch (error) {
    machine.stop()
    throw new Error(`seed ${seed}: ${(error as Error).message}\n${machine.log.slice(-40).join('\n')}`, {
      cause: error,
    })
  }
}

test(`${sequences} sequences of graph operations under a guest that goes on`, async () => {
  for (let seed = firstSeed; seed < firstSeed + sequences; seed++) {
    await runSequence(seed)
  }
}, 3_600_000)
