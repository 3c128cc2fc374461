import { blockError } from '../../../errors/index.js'
import { keyBytesOf, lookupPassword } from '../../../formatkit/crypto/index.js'
import { luksCreateOptions, luksPayloadOffset } from '../../../formatkit/luks/index.js'
import type { MeasureContext, MeasureResult } from '../../../graph/index.js'

/** Header and payload: there is nothing that could be left out. The secret is asked for as create does. */
export function measure(context: MeasureContext): MeasureResult {
  const { layer, options, source } = context
  const luks = luksCreateOptions(options, '')
  const secret = options['key-secret']
  if (secret === undefined) {
    throw blockError('EINVAL', "Parameter 'key-secret' is required for cipher")
  }
  lookupPassword(layer, String(secret)).fill(0)
  const size = source?.length ?? Math.ceil(Number(options.size ?? 0) / 512) * 512
  const required = luksPayloadOffset(keyBytesOf(luks)) + size
  return { required, fullyAllocated: required }
}
