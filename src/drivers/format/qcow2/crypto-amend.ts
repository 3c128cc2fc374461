import { blockError } from '../../../errors/index.js'
import { lookupPassword } from '../../../formatkit/crypto/index.js'
import { amendLuks, luksAmendOptions } from '../../../formatkit/luks/index.js'
import type { AmendContext } from '../../../graph/index.js'
import { luksStorageOf } from './crypto.js'
import type { Qcow2Metadata } from './metadata.js'

const prefix = 'encrypt.'

/**
 * Whether an amend asks for something about the encryption.
 *
 * @throws BlockError with QEMU's texts if it does, and there is none that can be amended
 */
export function amendsEncryption(meta: Qcow2Metadata, context: AmendContext): boolean {
  if (!Object.keys(context.options).some((name) => name.startsWith(prefix))) {
    return false
  }
  if (meta.crypto === undefined) {
    throw blockError('EINVAL', "Can't amend encryption options - encryption not present")
  }
  if (meta.crypto.method !== 'luks') {
    throw blockError('ENOTSUP', 'Only LUKS encryption options can be amended')
  }
  return true
}

/**
 * Adds or erases key slots, as the `encrypt.*` options of an amend say.
 *
 * @throws BlockError with QEMU's texts
 */
export async function amendEncryption(meta: Qcow2Metadata, context: AmendContext): Promise<void> {
  const { crypto, header, file, host } = meta
  const volume = crypto?.volume
  if (volume === undefined) {
    throw blockError('ENOTSUP', 'Only LUKS encryption options can be amended')
  }
  await amendLuks({
    host,
    storage: luksStorageOf(file, header),
    volume,
    options: luksAmendOptions(context.options, prefix),
    force: context.force,
    password: (id) => lookupPassword(context.node.layer, id),
    keySecret: crypto?.keySecret,
  })
}
