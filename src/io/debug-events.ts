import type { Wait } from '../sched/index.js'

/** Named points that a request passes; QAPI's `BlkdebugEvent`, in its order. */
export const debugEventNames = [
  'l1_update',
  'l1_grow_alloc_table',
  'l1_grow_write_table',
  'l1_grow_activate_table',
  'l2_load',
  'l2_update',
  'l2_update_compressed',
  'l2_alloc_cow_read',
  'l2_alloc_write',
  'read_aio',
  'read_backing_aio',
  'read_compressed',
  'write_aio',
  'write_compressed',
  'vmstate_load',
  'vmstate_save',
  'cow_read',
  'cow_write',
  'reftable_load',
  'reftable_grow',
  'reftable_update',
  'refblock_load',
  'refblock_update',
  'refblock_update_part',
  'refblock_alloc',
  'refblock_alloc_hookup',
  'refblock_alloc_write',
  'refblock_alloc_write_blocks',
  'refblock_alloc_write_table',
  'refblock_alloc_switch_table',
  'cluster_alloc',
  'cluster_alloc_bytes',
  'cluster_free',
  'flush_to_os',
  'flush_to_disk',
  'pwritev_rmw_head',
  'pwritev_rmw_after_head',
  'pwritev_rmw_tail',
  'pwritev_rmw_after_tail',
  'pwritev',
  'pwritev_zero',
  'pwritev_done',
  'empty_image_prepare',
  'l1_shrink_write_table',
  'l1_shrink_free_l2_clusters',
  'cor_write',
  'cluster_alloc_space',
  'none',
] as const

export type DebugEvent = (typeof debugEventNames)[number]

/** Hears of the events of requests to one node. */
export interface DebugEventSink {
  /** A request reached `name`; it goes on when the wait settles. */
  event(name: DebugEvent): Wait
}

/**
 * Tells `sink`, if there is one, that a request reached `name`, and runs `action` when it may go on.
 * Hot paths look whether there is one first, and make no closure otherwise.
 */
export function afterEvent(sink: DebugEventSink | undefined, name: DebugEvent, action: () => Wait): Wait {
  const stop = sink?.event(name)
  return stop === undefined ? action() : afterStop(stop, action)
}

async function afterStop(stop: Promise<void>, action: () => Wait): Promise<void> {
  await stop
  await action()
}
