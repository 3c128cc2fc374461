import type { VmStateArea } from '../../../graph/index.js'
import { afterEvent } from '../../../io/index.js'
import { Mutex, type Wait } from '../../../sched/index.js'
import type { Qcow2Metadata } from './metadata.js'

/**
 * The area behind the guest disk where a machine's memory is kept: it begins with the first L1 entry
 * that the disk does not need. Snapshots hold it like the disk itself.
 */
export class Qcow2VmState implements VmStateArea {
  readonly #meta: Qcow2Metadata
  readonly #writing = new Mutex()

  constructor(meta: Qcow2Metadata) {
    this.#meta = meta
  }

  get #start(): number {
    return this.#meta.header.l1VmStateIndex * this.#meta.geometry.l1Span
  }

  /** What was never written reads as zeroes. */
  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return afterEvent(this.#meta.file.debug, 'vmstate_load', () =>
      this.#read(this.#start + offset, bytes, buffer, bufferOffset),
    )
  }

  #read(start: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    const { node } = this.#meta
    const align = node.limits.requestAlignment
    return start % align === 0 && bytes % align === 0
      ? node.readDriver(start, bytes, buffer, bufferOffset, 0)
      : this.#readPadded(start, bytes, buffer, bufferOffset)
  }

  /** Reads whole blocks around the range: sectors of an encrypted image. */
  async #readPadded(start: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    const { node } = this.#meta
    const align = node.limits.requestAlignment
    const head = start % align
    const padded = new Uint8Array(Math.ceil((head + bytes) / align) * align)
    const wait = node.readDriver(start - head, padded.length, padded, 0, 0)
    if (wait !== undefined) {
      await wait
    }
    buffer.set(padded.subarray(head, head + bytes), bufferOffset)
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.#writing.run(() => this.#write(offset, bytes, buffer, bufferOffset))
  }

  /** Writes whole clusters: the request path knows nothing of what lies behind the disk. */
  async #write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    await this.#meta.event('vmstate_save')
    const { node, geometry } = this.#meta
    const start = this.#start + offset
    const from = geometry.clusterStart(start)
    const to = geometry.clusterEnd(start + bytes)
    let data = buffer.subarray(bufferOffset, bufferOffset + bytes)
    if (from !== start || to !== start + bytes) {
      data = new Uint8Array(to - from)
      for (const edge of new Set([from, to - geometry.clusterSize])) {
        const wait = node.readDriver(edge, geometry.clusterSize, data, edge - from, 0)
        if (wait !== undefined) {
          await wait
        }
      }
      data.set(buffer.subarray(bufferOffset, bufferOffset + bytes), start - from)
    }
    const wait = node.writeMapped(from, data.length, data, 0, 0)
    if (wait !== undefined) {
      await wait
    }
    node.flushState.writeGeneration++
  }
}
