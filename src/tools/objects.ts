import { defineObject } from '../formatkit/user-objects.js'
import type { BlockLayer } from '../graph/index.js'
import { parseObject } from '../options/index.js'

/**
 * Defines the object that `--object` describes in the layer, or returns the lines of a list that the
 * user asks for.
 *
 * @throws BlockError with QEMU's text
 */
export function addObject(layer: BlockLayer, text: string): readonly string[] | undefined {
  const request = parseObject(text)
  if (request.kind === 'help') {
    return request.lines
  }
  defineObject(layer, request)
  return undefined
}
