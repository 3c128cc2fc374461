import type { BlockDriver, BlockLayer } from '../graph/index.js'
import type { OptionDict, OptionSchema, OptionTree } from '../options/index.js'

/** Create options as `-o` gives them (`cluster_size=64k,compat=1.1`, commas doubled), or as values. */
export type CreateOptionInput = string | OptionDict | OptionTree

/** The drivers an image is made with, and the create options both know: the format's, then the protocol's. */
export interface CreateTarget {
  readonly driver: BlockDriver
  readonly protocol: BlockDriver
  readonly schema: OptionSchema
}

/**
 * Finds the drivers for creating `filename`. Also what `-o help` lists.
 *
 * @throws BlockError `Unknown file format '%s'`, `Unknown protocol '%s'`,
 *   `Format driver '%s' does not support image creation`,
 *   `Protocol driver '%s' does not support image creation` — in this order.
 */
export function createTarget(layer: BlockLayer, format: string, filename: string): CreateTarget {
  throw new Error(`unfinished ${String(layer)} ${format} ${filename}`)
}
