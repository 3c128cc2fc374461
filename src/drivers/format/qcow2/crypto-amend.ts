import { blockError } from '../../../errors/index.js'
import { lookupPassword } from '../../../formatkit/crypto/index.js'
import { amendLuks, luksAmendOptions, luksAmendSchema } from '../../../formatkit/luks/index.js'
import type { AmendContext, BlockLayer } from '../../../graph/index.js'
import type { OptionSpec } from '../../../options/index.js'
import { luksStorageOf } from './crypto.js'
import type { Qcow2Metadata } from './metadata.js'

const prefix = 'encrypt.'

/** The `encrypt.*` options of amend. */
export const qcow2EncryptAmendOptions: Readonly<Record<string, OptionSpec>> = Object.fromEntries(
  Object.entries(luksAmendSchema).map(([name, spec]) => [prefix + name, spec]),
)

/** Whether an amend asks for something about the encryption. */
export function amendsEncryption(context: AmendContext): boolean {
  return Object.keys(context.options).some((name) => name.startsWith(prefix))
}

/**
 * Adds or erases key slots, as the `encrypt.*` options of an amend say.
 *
 * @throws BlockError with QEMU's texts
 */
export async function amendEncryption(
  layer: BlockLayer,
  meta: Qcow2Metadata,
  context: AmendContext,
): Promise<void> {
  const { crypto, header, file, host } = meta
  if (crypto === undefined) {
    throw blockError('ENOTSUP', "Can't amend encryption options - encryption not present")
  }
  const { volume } = crypto
  if (crypto.method !== 'luks' || volume === undefined) {
    throw blockError('ENOTSUP', 'Only LUKS encryption options can be amended')
  }
  await amendLuks({
    host,
    storage: luksStorageOf(file, header),
    volume,
    options: luksAmendOptions(context.options, prefix),
    force: context.force,
    password: (id) => lookupPassword(layer, id),
    keySecret: crypto.keySecret,
  })
}
