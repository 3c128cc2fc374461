import { blockError } from '../../../errors/index.js'
import { lookupPassword } from '../../../formatkit/crypto/index.js'
import { luksCreateOptions, makeLuks, nodeStorage, writeLuks } from '../../../formatkit/luks/index.js'
import { type CreateContext, type Preallocation, truncateNode } from '../../../graph/index.js'

const preallocations: readonly Preallocation[] = ['off', 'metadata', 'falloc', 'full']

function preallocationOf(value: unknown): Preallocation {
  const found = preallocations.find((mode) => mode === (value ?? 'off'))
  if (found === undefined) {
    throw blockError('EINVAL', `invalid parameter value: ${String(value)}`)
  }
  // There is no metadata that depends on the size.
  return found === 'metadata' ? 'off' : found
}

/**
 * Creates an image: header, one key slot, and a payload that is not written, so that it reads as noise.
 *
 * @throws BlockError with QEMU's text
 */
export async function create(context: CreateContext): Promise<void> {
  const { layer, host, options } = context
  const luks = luksCreateOptions(options, '')
  const preallocation = preallocationOf(options.preallocation)
  const size = Math.ceil(Number(options.size ?? 0) / 512) * 512
  const secret = options['key-secret']
  if (secret === undefined) {
    throw blockError('EINVAL', "Parameter 'key-secret' is required for cipher")
  }
  const password = lookupPassword(layer, String(secret))
  let fresh: Awaited<ReturnType<typeof makeLuks>>
  try {
    fresh = await makeLuks(host, luks, password)
  } finally {
    password.fill(0)
  }
  fresh.volume.dispose()
  const { payloadOffset } = fresh.header
  if (size > Number.MAX_SAFE_INTEGER - payloadOffset) {
    throw blockError('EFBIG', 'The requested file size is too large')
  }
  const file = await context.createFile(0)
  await truncateNode(file, size + payloadOffset, { exact: false, preallocation, zero: false })
  const storage = nodeStorage(file, 0)
  await writeLuks(storage, fresh)
  await storage.flush()
}
