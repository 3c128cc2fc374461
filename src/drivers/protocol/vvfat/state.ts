import { ioError } from '../../../errors/index.js'
import type { DriverState } from '../../../graph/index.js'
import type { HostFile, HostFiles } from '../../../host/index.js'
import type { BlockLimits, DirectPath, ExtentSink, IoNode } from '../../../io/index.js'
import { Mutex, type Wait } from '../../../sched/index.js'
import type { Mapping, VvfatDisk } from './build.js'
import { clusterBytes, sectorBytes } from './geometry.js'
import type { Overlay } from './overlay.js'

/** Host files kept open. */
const openFiles = 16

/** An open folder: what it looked like when it was opened; the contents of files are read when they are wanted. */
export class VvfatState implements DriverState, DirectPath {
  readonly direct: DirectPath = this
  readonly length: number
  readonly #node: IoNode
  readonly #files: HostFiles
  readonly #disk: VvfatDisk
  readonly #mutex = new Mutex()
  /** By path; the one opened longest ago first. */
  readonly #open = new Map<string, HostFile>()
  /** What the guest has written; absent: the disk is read-only. */
  readonly #overlay: Overlay | undefined

  constructor(node: IoNode, files: HostFiles, disk: VvfatDisk, overlay?: Overlay) {
    this.#overlay = overlay
    this.#node = node
    this.#files = files
    this.#disk = disk
    this.length = disk.geometry.total * sectorBytes
  }

  refreshLimits(limits: BlockLimits): void {
    limits.requestAlignment = sectorBytes
  }

  /** One at a time, so that no file is closed while it is read. */
  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.#mutex.run(() => this.#read(offset, bytes, buffer, bufferOffset))
  }

  /** Runs `work` while nothing else is read or written. */
  exclusively(work: () => Promise<void>): Wait {
    return this.#mutex.run(work)
  }

  /** As `read`, within {@link exclusively}. */
  async readNow(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    await this.#read(offset, bytes, buffer, bufferOffset)
  }

  /** Moves what has not been written of host files that are about to change into the overlay, and forgets the files. */
  async keep(paths: ReadonlySet<string>): Promise<void> {
    const { head, mappings } = this.#disk
    const overlay = this.#overlay
    const buffer = new Uint8Array(clusterBytes * 64)
    for (const { path, begin, end } of mappings) {
      if (overlay === undefined || path === undefined || !paths.has(path)) {
        continue
      }
      const stop = head.length + end * clusterBytes
      for (let at = head.length + begin * clusterBytes; at < stop; ) {
        const { here, bytes } = overlay.run(at, Math.min(buffer.length, stop - at))
        if (!here) {
          await this.#read(at, bytes, buffer, 0)
          await overlay.keep(at, bytes, buffer)
        }
        at += bytes
      }
      await this.#open.get(path)?.close()
      this.#open.delete(path)
    }
  }

  async #read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    const overlay = this.#overlay
    for (let done = 0; done < bytes; ) {
      const at = offset + done
      const run = overlay?.run(at, bytes - done)
      const count = run?.bytes ?? bytes - done
      if (run?.here === true) {
        await overlay?.read(at, count, buffer, bufferOffset + done)
      } else {
        await this.#readBelow(at, count, buffer, bufferOffset + done)
      }
      done += count
    }
  }

  /** What stood there when the folder was opened. */
  async #readBelow(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    const { head } = this.#disk
    for (let done = 0; done < bytes; ) {
      const at = offset + done
      const target = bufferOffset + done
      if (at < head.length) {
        const count = Math.min(bytes - done, head.length - at)
        buffer.set(head.subarray(at, at + count), target)
        done += count
        continue
      }
      done += await this.#readCluster(at - head.length, bytes - done, buffer, target)
    }
  }

  /** Reads from `at` bytes behind the tables on, at most to where something else begins; how much. */
  async #readCluster(at: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<number> {
    const mapping = this.#find(Math.floor(at / clusterBytes))
    if (mapping === undefined) {
      // Nothing stands behind the last file.
      buffer.fill(0, bufferOffset, bufferOffset + bytes)
      return bytes
    }
    const from = at - mapping.begin * clusterBytes
    const count = Math.min(bytes, mapping.end * clusterBytes - at)
    if (mapping.bytes !== undefined) {
      buffer.set(mapping.bytes.subarray(from, from + count), bufferOffset)
    } else if (mapping.path !== undefined) {
      await (await this.#file(mapping.path)).read(from, count, buffer, bufferOffset)
    }
    return count
  }

  #find(cluster: number): Mapping | undefined {
    const { mappings } = this.#disk
    let low = 0
    for (let high = mappings.length; low < high; ) {
      const middle = (low + high) >>> 1
      if ((mappings[middle] as Mapping).end <= cluster) {
        low = middle + 1
      } else {
        high = middle
      }
    }
    return mappings[low]
  }

  async #file(path: string): Promise<HostFile> {
    const known = this.#open.get(path)
    if (known !== undefined) {
      return known
    }
    await this.#trim(openFiles - 1)
    const file = await this.#files.open(path)
    this.#open.set(path, file)
    return file
  }

  /** Closes the files opened longest ago, so that `keep` are left; nothing is read at the moment. */
  async #trim(keep: number): Promise<void> {
    for (const [path, file] of this.#open) {
      if (this.#open.size <= keep) {
        break
      }
      this.#open.delete(path)
      await file.close()
    }
  }

  /** Nothing stands behind the last file. */
  status(offset: number, bytes: number, _want: 'zero' | 'allocation', out: ExtentSink): Wait {
    const { head, mappings } = this.#disk
    const below = head.length + (mappings.at(-1)?.end ?? 0) * clusterBytes
    const used = Math.max(below, this.#overlay?.end ?? 0)
    const data = Math.max(0, Math.min(bytes, used - offset))
    if (data === 0 || (out.data(data, this.#node, offset, 0) && data < bytes)) {
      out.zero(bytes - data, this.#node, offset + data)
    }
    return undefined
  }

  allocatedSize(): number {
    throw ioError('ENOTSUP')
  }

  exactFilename(): string | undefined {
    return undefined
  }

  /** Closes what is open. */
  close(): Wait {
    return this.#trim(0)
  }
}
