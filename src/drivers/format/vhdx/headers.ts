import { blockError } from '../../../errors/index.js'
import type { BlockChild } from '../../../graph/index.js'
import type { Host } from '../../../host/index.js'
import { parseHeader, serializeHeader, type VhdxHeader } from './header.js'
import { headerBytes, headerOffsets, sameBytes } from './layout.js'
import type { ReplayedFile } from './overlay.js'

/** The two headers of a file: one counts, the other is written next. */
export class Headers {
  readonly #file: BlockChild
  readonly #host: Host
  #current: VhdxHeader
  #index: number
  #fileWriteGuid: Uint8Array | undefined

  private constructor(file: BlockChild, host: Host, current: VhdxHeader, index: number) {
    this.#file = file
    this.#host = host
    this.#current = current
    this.#index = index
  }

  /** @throws BlockError `No valid VHDX header found` */
  static async read(file: BlockChild, host: Host, from: ReplayedFile): Promise<Headers> {
    const raw: Uint8Array[] = []
    for (const offset of headerOffsets) {
      raw.push(await from.read(offset, new Uint8Array(headerBytes)))
    }
    const [one, two] = raw.map(parseHeader)
    let index = two !== undefined && (one === undefined || two.sequence > one.sequence) ? 1 : 0
    let current = index === 0 ? one : two
    if (one !== undefined && two !== undefined && one.sequence === two.sequence) {
      // Some tools write the same header twice.
      const [first, second] = raw
      const same = first !== undefined && second !== undefined && sameBytes(first, second)
      current = same ? one : undefined
      index = 0
    }
    if (current === undefined) {
      throw blockError('EINVAL', 'No valid VHDX header found')
    }
    return new Headers(file, host, current, index)
  }

  get current(): Readonly<VhdxHeader> {
    return this.#current
  }

  /** A random identifier. */
  newGuid(): Uint8Array {
    const guid = Uint8Array.from(this.#host.randomBytes(16))
    guid[7] = ((guid[7] ?? 0) & 0x0f) | 0x40
    guid[8] = ((guid[8] ?? 0) & 0x3f) | 0x80
    return guid
  }

  /** Writes both headers, one after the other, so that one is whole at any time. Durable when done. */
  async update(changes: Partial<Pick<VhdxHeader, 'dataWriteGuid' | 'logGuid'>>): Promise<void> {
    this.#fileWriteGuid ??= this.newGuid()
    for (let round = 0; round < 2; round++) {
      const next: VhdxHeader = {
        ...this.#current,
        ...changes,
        fileWriteGuid: this.#fileWriteGuid,
        // Beyond what can be counted both would be the same: start again, the other header goes next.
        sequence: Number.isSafeInteger(this.#current.sequence + 1) ? this.#current.sequence + 1 : 1,
      }
      const index = 1 - this.#index
      const { node } = this.#file
      await node.write(headerOffsets[index] ?? 0, headerBytes, serializeHeader(next), 0, 0)
      await node.flush()
      this.#current = next
      this.#index = index
    }
  }
}
