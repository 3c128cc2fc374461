import type { Wait } from '../sched/index.js'

/** How a zoned device treats writes that are not at a zone's write pointer: it refuses them, or it copes. */
export type ZoneModel = 'host-managed' | 'host-aware'

/** What a zone is for; Linux' numbers (`enum blk_zone_type`). */
export const ZoneType = { conventional: 1, sequential: 2, sequentialPreferred: 3 } as const

/** What a zone may be used for now; Linux' numbers (`enum blk_zone_cond`). */
export const ZoneCondition = {
  notWritePointer: 0,
  empty: 1,
  implicitOpen: 2,
  explicitOpen: 3,
  closed: 4,
  readOnly: 13,
  full: 14,
  offline: 15,
} as const

/** A zone of a device. Bytes. */
export interface Zone {
  readonly start: number
  readonly length: number
  /** Bytes from `start` on that can be written. */
  readonly capacity: number
  /** Where the next sequential write goes, from the start of the device. */
  readonly writePointer: number
  /** A {@link ZoneType}. */
  readonly type: number
  /** A {@link ZoneCondition}. */
  readonly condition: number
}

export type ZoneOperation = 'open' | 'close' | 'finish' | 'reset'

/** The zones of a device that has them. Bytes; failures are BlockErrors with the errno. */
export interface HostZones {
  readonly model: ZoneModel
  /** Length of all zones but perhaps the last, > 0. */
  readonly zoneBytes: number
  /** Writes are multiples of this, > 0. */
  readonly writeGranularity: number
  /** Largest append, > 0. */
  readonly maxAppendBytes: number
  /** Up to `count` zones from the one that contains `offset` on; fewer at the end of the device. */
  report(offset: number, count: number): Zone[]
  /** Works on whole zones: the range is made of them. */
  manage(operation: ZoneOperation, offset: number, bytes: number): Wait
}
