import { blockError } from '../errors/index.js'
import type { BlockNode } from './node.js'

/** A file that an image names in its own metadata. */
export interface ImplicitFile {
  /** The image that names it. */
  readonly parent: BlockNode
  /** What it is to the parent: `backing`, `data-file`, … */
  readonly key: string
  /** Resolved name. */
  readonly filename: string
}

/**
 * Decides whether a file that an image names itself may be opened. Throw to refuse. An image from a
 * stranger can name any file of the host, so services should not use {@link allowImplicitFiles}.
 */
export type ImplicitFilePolicy = (file: ImplicitFile) => void | Promise<void>

/** Opens everything, as QEMU does. */
export const allowImplicitFiles: ImplicitFilePolicy = () => undefined

/** Refuses every file that only the image names. */
export const denyImplicitFiles: ImplicitFilePolicy = ({ parent, key, filename }) => {
  throw blockError(
    'EACCES',
    `Image '${parent.filename}' names '${filename}' as its ${key}, which is not allowed`,
  )
}

/** Allows plain files below `folder` only, links resolved. */
export function implicitFilesWithin(folder: string): ImplicitFilePolicy {
  return ({ parent, key, filename }) => {
    const files = parent.host.files
    const root = files.realPath(folder)
    const real = files.realPath(filename)
    const inside = root !== undefined && real !== undefined && (real === root || real.startsWith(`${root}/`))
    if (!inside) {
      throw blockError(
        'EACCES',
        `Image '${parent.filename}' names '${filename}' as its ${key}, which is not within '${folder}'`,
      )
    }
  }
}
