import { defineObject } from '../formatkit/user-objects.js'
import type { BlockLayer } from '../graph/index.js'
import { parseObject } from '../options/index.js'

/**
 * Defines the object that `--object` describes in the layer, or returns the lines of a list that the
 * user asks for.
 *
 * @throws BlockError with QEMU's text
 */
export async function addObject(
  layer: BlockLayer,
  text: string,
  ioThreads = false,
): Promise<readonly string[] | undefined> {
  const request = parseObject(text, ioThreads)
  if (request.kind === 'help') {
    return request.lines
  }
  await defineObject(layer, request)
  return undefined
}
