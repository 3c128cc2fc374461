import { errnoError } from '../errors/index.js'
import type { ZoneOperations } from '../graph/index.js'
import { type HostFile, type HostZones, type Zone, type ZoneOperation, ZoneType } from '../host/index.js'
import { Mutex, type Wait } from '../sched/index.js'

/** The zones of a device, with append: Linux has none for users, so it is a write at the write pointer. */
export class DeviceZones implements ZoneOperations {
  readonly #file: () => HostFile
  readonly #zones: HostZones
  /** Appends to one zone go one after the other; keys are starts of zones, bytes. */
  readonly #appending = new Map<number, { readonly mutex: Mutex; users: number }>()

  /** `file` tells the device as it is open now, which a reopen changes. */
  constructor(file: () => HostFile, zones: HostZones) {
    this.#file = file
    this.#zones = zones
  }

  get model(): HostZones['model'] {
    return this.#zones.model
  }

  get zoneBytes(): number {
    return this.#zones.zoneBytes
  }

  get #now(): HostZones {
    return this.#file().zones ?? this.#zones
  }

  report(offset: number, count: number): Zone[] {
    return this.#now.report(offset, count)
  }

  manage(operation: ZoneOperation, offset: number, bytes: number): Wait {
    const { zoneBytes } = this
    if (offset % zoneBytes !== 0) {
      throw errnoError(
        'EINVAL',
        `sector offset ${offset / 512} is not aligned to zone size ${zoneBytes / 512}`,
      )
    }
    // The last zone of a device may be smaller.
    if (bytes % zoneBytes !== 0 && offset + bytes !== this.#file().size()) {
      throw errnoError(
        'EINVAL',
        `number of sectors ${bytes / 512} is not aligned to zone size ${zoneBytes / 512}`,
      )
    }
    return this.#now.manage(operation, offset, bytes)
  }

  async append(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<number> {
    const { zoneBytes } = this
    const { writeGranularity, maxAppendBytes } = this.#zones
    if (offset % zoneBytes !== 0) {
      throw errnoError(
        'EINVAL',
        `sector offset ${offset / 512} is not aligned to zone size ${zoneBytes / 512}`,
      )
    }
    if (bytes % writeGranularity !== 0) {
      throw errnoError('EINVAL', `${bytes} bytes are not aligned to block size ${writeGranularity}`)
    }
    if (bytes > maxAppendBytes) {
      throw errnoError('EINVAL', `${bytes} bytes are more than the ${maxAppendBytes} of one append`)
    }
    const turn = this.#appending.get(offset) ?? { mutex: new Mutex(), users: 0 }
    this.#appending.set(offset, turn)
    turn.users++
    try {
      return await turn.mutex.run(() => this.#appendNow(offset, bytes, buffer, bufferOffset))
    } finally {
      if (--turn.users === 0) {
        this.#appending.delete(offset)
      }
    }
  }

  async #appendNow(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<number> {
    const [zone] = this.#now.report(offset, 1)
    if (zone === undefined || zone.type === ZoneType.conventional) {
      throw errnoError('EINVAL', `the zone at sector ${offset / 512} is not written sequentially`)
    }
    if (zone.writePointer + bytes > zone.start + zone.capacity) {
      throw errnoError('ENOSPC', `the zone at sector ${offset / 512} has too little room`)
    }
    const wait = this.#file().write(zone.writePointer, bytes, buffer, bufferOffset)
    if (wait !== undefined) {
      await wait
    }
    return zone.writePointer
  }
}
