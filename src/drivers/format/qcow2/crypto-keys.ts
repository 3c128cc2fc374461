import { blockError, isBlockError } from '../../../errors/index.js'
import { openLuks } from '../../../formatkit/luks/index.js'
import type { KeyHooks } from '../../../graph/index.js'
import { luksStorageOf } from './crypto.js'
import type { Qcow2Metadata } from './metadata.js'

/** Passwords given after an open without I/O (seed rows 102, 103); absent for images without encryption. */
export function keyHooks(meta: Qcow2Metadata): KeyHooks | undefined {
  const { crypto, host } = meta
  if (crypto === undefined) {
    return undefined
  }
  return {
    encrypted: true,
    get hasKey() {
      return crypto.hasKey
    },
    setKey(key) {
      if (crypto.method === 'aes') {
        crypto.setLegacyKey(key)
        return undefined
      }
      return openLuks(host, luksStorageOf(meta.file, meta.header), key).then(
        (volume) => crypto.setVolume(volume),
        (error: unknown) => {
          throw isBlockError(error) && error.code === 'EACCES'
            ? blockError('EINVAL', error.message, { cause: error })
            : error
        },
      )
    },
  }
}
