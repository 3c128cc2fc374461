import { type BlockError, blockError, codeOf, errnoError, ioError, prefixed } from '../../../errors/index.js'
import { type Preallocation, type TruncateOptions, truncateNode } from '../../../graph/index.js'
import { ReqFlags, WritePlan } from '../../../io/index.js'
import type { PersistentBitmaps } from './bitmap-store.js'
import type { ClusterWriter } from './cluster.js'
import type { L2Tables } from './l2-tables.js'
import type { Qcow2Metadata } from './metadata.js'
import type { ZeroDiscard } from './zero-discard.js'

/** Byte offset of the field "size" in the header. */
const headerSizeField = 24

/** Runs `body`; an error gets `text` before the errno's wording. */
async function step<T>(text: string, body: () => Promise<T>): Promise<T> {
  try {
    return await body()
  } catch (error) {
    throw errnoError(codeOf(error), text, { cause: error })
  }
}

/** Changes the guest size of an image. */
export class Resize {
  readonly #meta: Qcow2Metadata
  readonly #tables: L2Tables
  readonly #writer: ClusterWriter
  readonly #zeroDiscard: ZeroDiscard
  readonly #bitmaps: PersistentBitmaps
  readonly #onResize: (length: number) => void

  /** @param onResize called with the new length when it has taken effect */
  constructor(
    meta: Qcow2Metadata,
    tables: L2Tables,
    writer: ClusterWriter,
    zeroDiscard: ZeroDiscard,
    bitmaps: PersistentBitmaps,
    onResize: (length: number) => void,
  ) {
    this.#meta = meta
    this.#tables = tables
    this.#writer = writer
    this.#zeroDiscard = zeroDiscard
    this.#bitmaps = bitmaps
    this.#onResize = onResize
  }

  /**
   * See DriverState.truncate. The header's size is written last.
   *
   * @throws BlockError with QEMU's texts; the size is unchanged then, but cropped clusters may be gone
   */
  async truncate(length: number, options: TruncateOptions): Promise<void> {
    const { header, geometry } = this.#meta
    // What is read is what the data file has, by way of the tables or without them: they must say so.
    const needsTables = this.#meta.isRawData && length >= header.size && options.preallocation === 'off'
    const how: TruncateOptions = needsTables ? { ...options, preallocation: 'metadata' } : options
    if (length % 512 !== 0) {
      throw blockError('EINVAL', 'The new size must be a multiple of 512')
    }
    if (header.snapshotCount !== 0 && header.version < 3) {
      throw blockError('ENOTSUP', "Can't resize a v2 image which has snapshots")
    }
    await this.#bitmaps.checkResize()
    const old = header.size
    const l1Entries = geometry.l1EntriesFor(length)
    if (length < old) {
      if (how.preallocation !== 'off') {
        throw blockError('EINVAL', "Preallocation can't be used for shrinking an image")
      }
      await this.#shrink(old, length, l1Entries)
    } else {
      await step('Failed to grow the L1 table', () =>
        this.#meta.locked(() => this.#tables.growL1(l1Entries, true)),
      )
      try {
        await this.#prepareNewPart(old, length, how)
      } catch (error) {
        // A later, successful resize must not bring to light what was allocated now.
        const end = geometry.clusterEnd(length)
        await this.#zeroDiscard.change(geometry.clusterEnd(old), end, 'forget').catch(() => undefined)
        throw error
      }
    }
    if (how.preallocation === 'off' && this.#meta.isExternal) {
      await truncateNode(this.#meta.data, length, { exact: how.exact, preallocation: 'off', zero: false })
    }
    const field = new Uint8Array(8)
    const view = new DataView(field.buffer)
    view.setUint32(0, Math.floor(length / 0x100000000))
    view.setUint32(4, length % 0x100000000)
    await step('Failed to update the image size', () => this.#meta.writeThrough(headerSizeField, field))
    header.size = length
    header.l1VmStateIndex = l1Entries
    this.#onResize(length)
  }

  /** Preallocates and zeroes what is going to be the part of the disk from `old` to `length`. */
  async #prepareNewPart(old: number, length: number, how: TruncateOptions): Promise<void> {
    let zero = how.zero
    if (how.preallocation === 'metadata') {
      await this.#preallocateMetadata(old, length, 'off')
    } else if (how.preallocation !== 'off' && this.#meta.isExternal) {
      // Every guest cluster has its place there: the file itself is asked for the space.
      await this.#preallocateMetadata(old, length, how.preallocation)
    } else if (how.preallocation !== 'off') {
      zero = !(await this.#preallocateData(old, length, how.preallocation, zero)) && zero
    }
    if (zero && length > old) {
      await this.#zeroNewPart(old, length)
    }
    if (how.preallocation !== 'off') {
      await step('Failed to flush the preallocated area to disk', () =>
        this.#meta.locked(() => this.#meta.writeCaches()),
      )
    }
  }

  async #shrink(old: number, length: number, l1Entries: number): Promise<void> {
    const meta = this.#meta
    const { file, geometry } = meta
    const start = geometry.clusterEnd(length)
    await step('Failed to discard cropped clusters', () =>
      this.#zeroDiscard.change(start, Math.max(start, old), 'forget'),
    )
    await meta.locked(async () => {
      await step('Failed to reduce the number of L2 tables', () => this.#tables.shrinkL1(l1Entries))
      await step('Failed to discard unused refblocks', async () => {
        // Counts and the tail of the file may only go when nothing on disk points there.
        await meta.flushL2()
        await meta.refcounts.growth.shrinkTable()
        await meta.allocator.passDiscards()
        await meta.flushBlocks()
      })
      const last = await step('Failed to find the last cluster', () => this.#lastCluster())
      const end = (last + 1) * geometry.clusterSize
      if (end < file.length) {
        try {
          await truncateNode(file, end, { exact: false, preallocation: 'off', zero: false })
        } catch (error) {
          const text = (error as BlockError).message
          meta.host.warn(`warning: Failed to truncate the tail of the image: ${text}`)
        }
      }
    })
  }

  async #lastCluster(): Promise<number> {
    const last = await this.#meta.refcounts.growth.lastUsed()
    if (last < 0) {
      throw this.#meta.corruption.signal('There are no references in the refcount table.')
    }
    return last
  }

  /**
   * Allocates and links clusters without writing them; the file becomes long enough to hold them, by way
   * of `preallocation`.
   */
  async #preallocateMetadata(old: number, length: number, preallocation: Preallocation): Promise<void> {
    const { data, geometry, node } = this.#meta
    const plan = new WritePlan()
    let end = 0
    // A subcluster is in use or not: one that holds data already cannot be completed in advance.
    const start = geometry.extendedL2 ? geometry.clusterEnd(old) : old
    for (let at = start; at < length; ) {
      await step('Allocating clusters failed', async () => {
        const wait = this.#writer.resolveWrite(at, length - at, plan)
        if (wait !== undefined) {
          await wait
        }
      })
      if (plan.conflict) {
        await node.allocations.wait(plan.lockStart, plan.lockEnd)
        plan.conflict = false
        continue
      }
      if (plan.allocates) {
        await step('Mapping clusters failed', () => this.#linkPlan(plan, at))
      }
      end = plan.targetOffset + plan.bytes
      at += plan.bytes
    }
    if (end > data.length) {
      await truncateNode(data, end, { exact: false, preallocation, zero: false })
    }
  }

  /** Completes a plan at guest offset `at` with the old contents around it but without data of its own. */
  async #linkPlan(plan: WritePlan, at: number): Promise<void> {
    try {
      try {
        if (plan.headBytes !== 0) {
          await this.#copyHead(at - plan.headBytes, plan.headBytes, plan.targetOffset - plan.headBytes)
          plan.copied = true
        }
        if (plan.tailBytes !== 0 && !this.#meta.geometry.extendedL2) {
          // Only past the end of the disk, where everything is zero.
          await this.#write(plan.targetOffset + plan.bytes, new Uint8Array(plan.tailBytes))
        }
      } catch (error) {
        await this.#writer.abortWrite(plan)
        throw error
      }
      await this.#writer.commitPreallocated(plan)
    } finally {
      if (plan.lock !== undefined) {
        this.#meta.node.allocations.release(plan.lock)
        plan.lock = undefined
      }
    }
  }

  /** Copies what the guest sees at `guest` to the file. */
  async #copyHead(guest: number, bytes: number, host: number): Promise<void> {
    const data = new Uint8Array(bytes)
    const wait = this.#meta.node.readDriver(guest, bytes, data, 0, 0)
    if (wait !== undefined) {
      await wait
    }
    this.#meta.crypto?.encrypt(guest, host, bytes, data, 0)
    await this.#write(host, data)
  }

  async #write(host: number, data: Uint8Array): Promise<void> {
    const wait = this.#meta.data.write(host, data.length, data, 0, 0)
    if (wait !== undefined) {
      await wait
    }
  }

  /**
   * Allocates the new part at the end of the file and has the file allocate space for it.
   *
   * @returns whether the new part certainly reads as zeroes; only tried with `zero`
   */
  async #preallocateData(
    old: number,
    length: number,
    preallocation: 'falloc' | 'full',
    zero: boolean,
  ): Promise<boolean> {
    const meta = this.#meta
    const { geometry, allocator } = meta
    const { clusterSize } = geometry
    const guest = geometry.extendedL2 ? geometry.clusterEnd(old) : geometry.clusterStart(old)
    if (guest >= length) {
      return false
    }
    const clusters = geometry.clusters(length - guest)
    // One more than needed for an aligned range: it may begin and end inside L2 tables.
    const l2Tables = Math.ceil(clusters / geometry.l2Entries) + 1
    const host = await meta.locked(async () => {
      await meta.flushL2()
      const last = await step('Failed to resize refcount structures', () => meta.refcounts.growth.lastUsed())
      let end = Math.max(last + 1, allocator.blockedEnd)
      if ((end + clusters) * clusterSize < meta.file.length) {
        // The file has an unused tail. It cannot be preallocated without growing, so leave it.
        end = geometry.clusters(meta.file.length)
      }
      const start = await step('Failed to resize refcount structures', () =>
        meta.refcounts.growth.growTable(end * clusterSize, clusters + l2Tables, true, 0, 0),
      )
      await step('Failed to allocate data clusters', async () => {
        if ((await allocator.allocateAt(start, clusters)) !== clusters) {
          throw ioError('EIO')
        }
      })
      return start
    })
    let zeroed = false
    try {
      zeroed = await this.#growFile(host, clusters * clusterSize, preallocation, zero)
      if (guest < old) {
        await this.#copyHead(guest, old - guest, host)
      }
    } catch (error) {
      await meta.locked(() => allocator.free(host, clusters * clusterSize, 'other', false))
      throw error
    }
    await step('Failed to update L2 tables', () =>
      meta.locked(() => this.#linkAll(guest, host, clusters, guest < old)),
    )
    return zeroed
  }

  /** Gives `[host, +bytes)`, at the end of the file, its space. Returns whether it reads as zeroes. */
  async #growFile(
    host: number,
    bytes: number,
    preallocation: 'falloc' | 'full',
    zero: boolean,
  ): Promise<boolean> {
    const { file } = this.#meta
    const length = host + bytes
    if (zero) {
      try {
        const stale = file.length - host
        await truncateNode(file, length, { exact: false, preallocation, zero: true })
        if (stale > 0) {
          await file.writeZeroes(host, stale, 0)
        }
        return true
      } catch {
        // The file cannot promise zeroes: they are made afterwards.
      }
    }
    try {
      await truncateNode(file, length, { exact: false, preallocation, zero: false })
    } catch (error) {
      throw prefixed(error, 'Failed to resize underlying file: ')
    }
    return false
  }

  async #linkAll(guest: number, host: number, clusters: number, copied: boolean): Promise<void> {
    const { sliceEntries, geometry, allocator } = this.#meta
    const { clusterSize } = geometry
    let done = 0
    try {
      while (done < clusters) {
        const at = guest + done * clusterSize
        const room = sliceEntries - (this.#tables.l2Index(at) % sliceEntries)
        const count = Math.min(room, clusters - done)
        await this.#writer.linkNew(at, host + done * clusterSize, count, copied && done === 0)
        done += count
      }
    } catch (error) {
      await allocator.free(host + done * clusterSize, (clusters - done) * clusterSize, 'other', false)
      throw error
    }
  }

  async #zeroNewPart(old: number, length: number): Promise<void> {
    const { node, geometry } = this.#meta
    const start = Math.ceil(old / geometry.subclusterSize) * geometry.subclusterSize
    if (start < length) {
      await step('Failed to zero out new clusters', async () => {
        const out = { bytes: 0 }
        for (let at = start; at < length; at += out.bytes) {
          out.bytes = 0
          const end = geometry.clusterEnd(length)
          const wait = this.#zeroDiscard.zero(at, end - at, ReqFlags.zeroWrite, out)
          if (wait !== undefined) {
            await wait
          }
          if (out.bytes === 0) {
            throw ioError('ENOTSUP')
          }
        }
      })
    }
    const head = Math.min(start, length) - old
    if (head > 0) {
      await step('Failed to zero out the new area', async () => {
        const wait = node.writeMapped(old, head, new Uint8Array(head), 0, 0)
        if (wait !== undefined) {
          await wait
        }
      })
    }
  }
}
