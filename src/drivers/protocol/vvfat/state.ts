import { ioError } from '../../../errors/index.js'
import type { DriverState } from '../../../graph/index.js'
import type { HostFile, HostFiles } from '../../../host/index.js'
import type { BlockLimits, DirectPath, ExtentSink, IoNode } from '../../../io/index.js'
import { Mutex, type Wait } from '../../../sched/index.js'
import type { Mapping, VvfatDisk } from './build.js'
import { clusterBytes, sectorBytes } from './geometry.js'

/** Host files kept open. */
const openFiles = 16

/** An open folder: what it looked like when it was opened; the contents of files are read when they are wanted. */
export class VvfatState implements DriverState, DirectPath {
  readonly direct: DirectPath = this
  readonly length: number
  readonly #node: IoNode
  readonly #files: HostFiles
  readonly #disk: VvfatDisk
  /** By path; the one opened longest ago first. */
  readonly #mutex = new Mutex()
  readonly #open = new Map<string, HostFile>()

  constructor(node: IoNode, files: HostFiles, disk: VvfatDisk) {
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

  async #read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
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
    const used = head.length + (mappings.at(-1)?.end ?? 0) * clusterBytes
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

  close(): Wait {
    return this.#trim(0)
  }
}
