import { codeOf, errnoError } from '../../../errors/index.js'
import { encryptChoice, imagePassword, legacyCipher } from '../../../formatkit/crypto/index.js'
import {
  type FreshLuks,
  type LuksCreateOptions,
  luksCreateOptions,
  makeLuks,
  nodeStorage,
  writeLuks,
} from '../../../formatkit/luks/index.js'
import type { BlockLayer } from '../../../graph/index.js'
import { CryptMethod } from './constants.js'
import type { Qcow2Metadata } from './metadata.js'

type CreateValues = Readonly<Record<string, string | number | boolean>>

/** How a new image is to be encrypted. */
export interface Qcow2EncryptCreate {
  /** Undefined: the legacy method. */
  readonly luks: LuksCreateOptions | undefined
  readonly keySecret: string | undefined
}

const prefix = 'encrypt.'

/**
 * What the create options say of encryption; undefined without any.
 *
 * @throws EINVAL with QEMU's texts
 */
export function encryptCreateOptions(values: CreateValues): Qcow2EncryptCreate | undefined {
  const choice = encryptChoice(values)
  if (choice === undefined) {
    return undefined
  }
  const { format, keySecret } = choice
  return { luks: format === 'luks' ? luksCreateOptions(values, prefix) : undefined, keySecret }
}

/** Encryption that is complete but not in an image yet. */
export type FreshCrypto = { readonly method: 'aes' } | { readonly method: 'luks'; readonly luks: FreshLuks }

/**
 * Makes keys and header, which may take seconds.
 *
 * @throws BlockError with QEMU's texts
 */
export async function prepareEncryption(
  layer: BlockLayer,
  options: Qcow2EncryptCreate,
): Promise<FreshCrypto> {
  const password = imagePassword(layer, options.keySecret)
  try {
    if (options.luks === undefined) {
      legacyCipher(layer.host, password).dispose()
      return { method: 'aes' }
    }
    const luks = await makeLuks(layer.host, options.luks, password)
    luks.volume.dispose()
    return { method: 'luks', luks }
  } finally {
    password.fill(0)
  }
}

/**
 * Makes an image without data an encrypted one. The LUKS header gets clusters of its own, counted and
 * written before the image's header points to them.
 *
 * @throws BlockError with QEMU's texts
 */
export async function installEncryption(meta: Qcow2Metadata, fresh: FreshCrypto): Promise<void> {
  const { header, file, allocator, geometry } = meta
  if (fresh.method === 'luks') {
    const length = fresh.luks.header.payloadOffset
    const clusters = geometry.clusters(length)
    const offset = await meta.locked(async () => {
      try {
        return await allocator.allocate(clusters)
      } catch (error) {
        throw errnoError(codeOf(error), `Cannot allocate cluster for LUKS header size ${length}`, {
          cause: error,
        })
      }
    })
    try {
      const zeroed = file.writeZeroes(offset, clusters * geometry.clusterSize, 0)
      if (zeroed !== undefined) {
        await zeroed
      }
    } catch (error) {
      throw errnoError(codeOf(error), 'Could not zero fill encryption header', { cause: error })
    }
    await writeLuks(nodeStorage(file, offset), fresh.luks)
    await meta.locked(() => meta.writeCaches())
    header.crypto = { offset, length }
  }
  header.cryptMethod = fresh.method === 'luks' ? CryptMethod.luks : CryptMethod.aes
  try {
    const flushed = file.flush()
    if (flushed !== undefined) {
      await flushed
    }
    await meta.writeHeader()
  } catch (error) {
    throw errnoError(codeOf(error), 'Cannot write encryption header', { cause: error })
  }
}
