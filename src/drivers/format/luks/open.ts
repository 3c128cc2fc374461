import { blockError } from '../../../errors/index.js'
import { lookupPassword } from '../../../formatkit/crypto/index.js'
import { type LuksVolume, nodeStorage, openLuks } from '../../../formatkit/luks/index.js'
import type { OpenContext } from '../../../graph/index.js'
import { takeOptions } from '../../../options/index.js'
import { luksRuntimeOptions } from './options.js'
import { LuksState } from './state.js'

/**
 * Opens an image. Without I/O the header alone is read, and no key is needed.
 *
 * @throws BlockError with QEMU's text
 */
export async function open(context: OpenContext): Promise<LuksState> {
  const { layer, host, file, flags, node } = context
  const secret = takeOptions(context.options, luksRuntimeOptions)['key-secret']
  let password: Uint8Array | undefined
  if (!flags.noIo) {
    if (secret === undefined) {
      throw blockError('EINVAL', "Parameter 'key-secret' is required for cipher")
    }
    password = lookupPassword(layer, secret)
  }
  let volume: LuksVolume
  try {
    volume = await openLuks(host, nodeStorage(file.node, 0), password)
  } finally {
    password?.fill(0)
  }
  return new LuksState(layer, node, file, volume, secret)
}
