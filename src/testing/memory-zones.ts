import { ioError } from '../errors/index.js'
import { type HostZones, type Zone, ZoneCondition, type ZoneOperation, ZoneType } from '../host/index.js'
import type { Wait } from '../sched/index.js'

interface MutableZone {
  readonly start: number
  readonly length: number
  readonly capacity: number
  readonly type: number
  writePointer: number
  condition: number
}

export interface MemoryZonesOptions {
  /** Bytes. */
  readonly size: number
  readonly zoneBytes: number
  /** Zones at the start that are written in any order. */
  readonly conventional?: number
  /** Bytes of each sequential zone that can be written; default all. */
  readonly capacity?: number
  readonly writeGranularity?: number
  readonly maxAppendBytes?: number
}

/** The zones of a host-managed device in memory, with the states that the ZBC standard gives them. */
export class MemoryZones implements HostZones {
  readonly model = 'host-managed'
  readonly zoneBytes: number
  readonly writeGranularity: number
  readonly maxAppendBytes: number
  readonly #zones: MutableZone[] = []
  readonly #zero: (offset: number, bytes: number) => void

  /** `zero` makes a range of the device read as zeroes. */
  constructor(options: MemoryZonesOptions, zero: (offset: number, bytes: number) => void) {
    const { size, zoneBytes, conventional = 0, capacity = zoneBytes } = options
    this.zoneBytes = zoneBytes
    this.writeGranularity = options.writeGranularity ?? 512
    this.maxAppendBytes = options.maxAppendBytes ?? zoneBytes
    this.#zero = zero
    for (let start = 0; start < size; start += zoneBytes) {
      const length = Math.min(zoneBytes, size - start)
      const sequential = start / zoneBytes >= conventional
      this.#zones.push({
        start,
        length,
        capacity: sequential ? Math.min(capacity, length) : length,
        type: sequential ? ZoneType.sequential : ZoneType.conventional,
        writePointer: start,
        condition: sequential ? ZoneCondition.empty : ZoneCondition.notWritePointer,
      })
    }
  }

  report(offset: number, count: number): Zone[] {
    const first = Math.floor(offset / this.zoneBytes)
    return this.#zones.slice(first, first + count).map((zone) => ({ ...zone }))
  }

  manage(operation: ZoneOperation, offset: number, bytes: number): Wait {
    const zones = this.#zones.filter((zone) => zone.start >= offset && zone.start < offset + bytes)
    if (zones.some((zone) => zone.type === ZoneType.conventional)) {
      throw ioError('EIO')
    }
    for (const zone of zones) {
      this.#manage(operation, zone)
    }
    return undefined
  }

  #manage(operation: ZoneOperation, zone: MutableZone): void {
    switch (operation) {
      case 'open':
        if (zone.condition !== ZoneCondition.full) {
          zone.condition = ZoneCondition.explicitOpen
        }
        break
      case 'close':
        if (zone.condition === ZoneCondition.explicitOpen || zone.condition === ZoneCondition.implicitOpen) {
          zone.condition = zone.writePointer === zone.start ? ZoneCondition.empty : ZoneCondition.closed
        }
        break
      case 'finish':
        zone.writePointer = zone.start + zone.length
        zone.condition = ZoneCondition.full
        break
      case 'reset':
        zone.writePointer = zone.start
        zone.condition = ZoneCondition.empty
        this.#zero(zone.start, zone.length)
        break
    }
  }

  /** A write is about to be made: it must begin at the write pointer and stay within the zone. @throws BlockError EIO */
  writing(offset: number, bytes: number): void {
    const zone = this.#zones[Math.floor(offset / this.zoneBytes)]
    if (zone === undefined) {
      throw ioError('EIO')
    }
    if (zone.type === ZoneType.conventional) {
      return
    }
    if (offset !== zone.writePointer || offset + bytes > zone.start + zone.capacity) {
      throw ioError('EIO')
    }
    zone.writePointer += bytes
    if (zone.writePointer === zone.start + zone.capacity) {
      zone.condition = ZoneCondition.full
    } else if (zone.condition !== ZoneCondition.explicitOpen) {
      zone.condition = ZoneCondition.implicitOpen
    }
  }
}
