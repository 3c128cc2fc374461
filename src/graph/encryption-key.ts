import { blockError, ioError, isBlockError } from '../errors/index.js'
import type { BlockNode } from './node.js'
import { deviceOrNodeName } from './op-blockers.js'

// Passphrases of open images, as the seed has them. Today's QEMU takes them as secrets when an image is
// opened; an image opened without one can still be given it here.

function hasEncryption(node: BlockNode | undefined): boolean {
  return node?.state?.key?.encrypted === true
}

function lacksKey(node: BlockNode | undefined): boolean {
  const key = node?.state?.key
  return key?.encrypted === true && !key.hasKey
}

/** Whether the image or its immediate backing file is encrypted (seed row 102). */
export function isEncrypted(node: BlockNode): boolean {
  return hasEncryption(node.backing) || hasEncryption(node)
}

/** Whether a key is missing: the image's own or that of its immediate backing file (seed row 102). */
export function isKeyRequired(node: BlockNode): boolean {
  return lacksKey(node.backing) || lacksKey(node)
}

/**
 * Gives an image its key; an encrypted backing file is given it first (seed row 102). Devices hear
 * of a medium when the image can be read for the first time.
 *
 * @param key bytes of the passphrase; stays the caller's
 * @throws BlockError EINVAL for an image that is not encrypted or a wrong key, which leaves the image
 *   without one; ENOMEDIUM if the driver takes no key
 */
export async function setEncryptionKey(node: BlockNode, key: Uint8Array): Promise<void> {
  const { backing } = node
  if (backing !== undefined && hasEncryption(backing)) {
    await setEncryptionKey(backing, key)
    if (!hasEncryption(node)) {
      return
    }
  }
  const hooks = node.state?.key
  if (hooks?.encrypted !== true) {
    throw ioError('EINVAL')
  }
  if (hooks.setKey === undefined) {
    throw ioError('ENOMEDIUM')
  }
  const hadKey = hooks.hasKey
  await hooks.setKey(key)
  if (!hadKey) {
    for (const edge of [...node.parents]) {
      edge.parent.mediumChanged?.(true)
    }
  }
}

/** Name of the encrypted image: the backing file's as recorded, if it is that one (seed row 103). */
function encryptedFilename(node: BlockNode): string {
  return hasEncryption(node.backing) ? node.backingFile : node.filename
}

/**
 * With a key: gives it to the image. Without: makes sure that none is missing (seed row 103).
 *
 * @throws BlockError `Node '…' is not encrypted`, `Password incorrect`, or class DeviceEncrypted
 */
export async function addEncryptionKey(node: BlockNode, key: Uint8Array | undefined): Promise<void> {
  if (key === undefined) {
    if (isKeyRequired(node)) {
      throw blockError('EACCES', `'${deviceOrNodeName(node)}' (${encryptedFilename(node)}) is encrypted`, {
        errorClass: 'DeviceEncrypted',
      })
    }
    return
  }
  if (!isEncrypted(node)) {
    throw blockError('EINVAL', `Node '${deviceOrNodeName(node)}' is not encrypted`)
  }
  try {
    await setEncryptionKey(node, key)
  } catch (error) {
    throw isBlockError(error) ? blockError(error.code, 'Password incorrect', { cause: error }) : error
  }
}
