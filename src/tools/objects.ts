import { addSecret } from '../formatkit/crypto/index.js'
import { addTlsCredentials } from '../formatkit/tls/index.js'
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
  if (request.kind === 'secret') {
    addSecret(layer, request.secret)
  } else if (request.kind === 'tls-creds') {
    addTlsCredentials(layer, request.credentials)
  } else {
    layer.throttleGroups.add(request.throttleGroup.id, request.throttleGroup.values)
  }
  return undefined
}
