import fs from 'node:fs'
import { errnoError } from '../../errors/index.js'
import type { HostZones, Zone, ZoneModel, ZoneOperation } from '../../host/index.js'
import { Errno, fromErrno } from './errors.js'
import { deviceFolder } from './file-stat.js'
import { type Libc, libc } from './libc.js'

/** linux/blkzoned.h */
const BLKREPORTZONE = 0xc0101282
const requests = {
  reset: 0x40101283,
  open: 0x40101286,
  close: 0x40101287,
  finish: 0x40101288,
} as const
/** Sizes of `struct blk_zone_report` and `struct blk_zone`, and the flag that says the latter tells the capacity. */
const headerBytes = 16
const zoneRecordBytes = 64
const hasCapacity = 1
/** Zones asked for in one call. */
const zonesPerCall = 1024

const sector = 512

function attribute(folder: string, name: string): string | undefined {
  try {
    return fs.readFileSync(`${folder}/queue/${name}`, 'latin1').trim()
  } catch {
    return undefined
  }
}

function positive(text: string | undefined): number | undefined {
  const value = Number(text)
  return Number.isSafeInteger(value) && value > 0 ? value : undefined
}

/** The zones of the block device behind `fd`; undefined if it has none or they cannot be told. */
export function zonesOf(
  fd: number,
  stat: fs.BigIntStats,
  folder = deviceFolder(stat),
  c = libc(),
): HostZones | undefined {
  const model = attribute(folder, 'zoned')
  if ((model !== 'host-managed' && model !== 'host-aware') || c === undefined) {
    return undefined
  }
  const zoneSectors = positive(attribute(folder, 'chunk_sectors'))
  if (zoneSectors === undefined || !Number.isSafeInteger(zoneSectors * sector)) {
    return undefined
  }
  return new LinuxZones(c, fd, {
    model,
    zoneBytes: zoneSectors * sector,
    writeGranularity:
      positive(attribute(folder, 'zone_write_granularity')) ??
      positive(attribute(folder, 'physical_block_size')) ??
      sector,
    maxAppendBytes: positive(attribute(folder, 'zone_append_max_bytes')) ?? zoneSectors * sector,
  })
}

type ZoneLimits = Pick<HostZones, 'model' | 'zoneBytes' | 'writeGranularity' | 'maxAppendBytes'>

class LinuxZones implements HostZones {
  readonly model: ZoneModel
  readonly zoneBytes: number
  readonly writeGranularity: number
  readonly maxAppendBytes: number
  readonly #libc: Libc
  readonly #fd: number

  constructor(c: Libc, fd: number, limits: ZoneLimits) {
    this.model = limits.model
    this.zoneBytes = limits.zoneBytes
    this.writeGranularity = limits.writeGranularity
    this.maxAppendBytes = limits.maxAppendBytes
    this.#libc = c
    this.#fd = fd
  }

  report(offset: number, count: number): Zone[] {
    const zones: Zone[] = []
    for (let at = offset; zones.length < count; ) {
      const wanted = Math.min(count - zones.length, zonesPerCall)
      const records = new Uint8Array(headerBytes + wanted * zoneRecordBytes)
      const view = new DataView(records.buffer)
      view.setBigUint64(0, BigInt(Math.floor(at / sector)), true)
      view.setUint32(8, wanted, true)
      this.#call(BLKREPORTZONE, records)
      const found = Math.min(view.getUint32(8, true), wanted)
      if (found === 0) {
        break
      }
      const capacities = (view.getUint32(12, true) & hasCapacity) !== 0
      for (let i = 0; i < found; i++) {
        zones.push(decodeZone(view, headerBytes + i * zoneRecordBytes, capacities))
      }
      const last = zones.at(-1)
      if (last === undefined || last.start + last.length <= at) {
        break
      }
      at = last.start + last.length
    }
    return zones
  }

  async manage(operation: ZoneOperation, offset: number, bytes: number): Promise<void> {
    const range = new Uint8Array(BigUint64Array.of(BigInt(offset / sector), BigInt(bytes / sector)).buffer)
    for (;;) {
      const result = await this.#libc.ioctlAsync(this.#fd, requests[operation], range)
      if (result >= 0) {
        return
      }
      if (result !== -Errno.EINTR) {
        throw fromErrno(-result)
      }
    }
  }

  #call(request: number, argument: Uint8Array): void {
    for (;;) {
      const result = this.#libc.ioctl(this.#fd, request, argument)
      if (result >= 0) {
        return
      }
      if (result !== -Errno.EINTR) {
        throw fromErrno(-result)
      }
    }
  }
}

/** A `struct blk_zone`; its fields count sectors. */
function decodeZone(view: DataView, at: number, capacities: boolean): Zone {
  const field = (offset: number): number => {
    const bytes = Number(view.getBigUint64(at + offset, true)) * sector
    if (!Number.isSafeInteger(bytes)) {
      throw errnoError('EFBIG', 'The device reports a zone beyond 2^53 - 1 bytes')
    }
    return bytes
  }
  const length = field(8)
  return {
    start: field(0),
    length,
    capacity: capacities ? field(32) : length,
    writePointer: field(16),
    type: view.getUint8(at + 24),
    condition: view.getUint8(at + 25),
  }
}
