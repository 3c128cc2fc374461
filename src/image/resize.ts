import { blockError, isBlockError } from '../errors/index.js'
import { type Backend, type Preallocation, truncateNode } from '../graph/index.js'

export interface ResizeImageOptions {
  /** Bytes: the new size, or the difference with `relative`. */
  readonly size: number
  /** `grow` and `shrink` take `size` as a difference; default: absolute. */
  readonly relative?: 'grow' | 'shrink' | undefined
  readonly preallocation?: Preallocation | undefined
  /** Permits shrinking. */
  readonly shrink?: boolean | undefined
}

const shrinkRefused = 'Use the --shrink option to perform a shrink operation.'

/** The warning `qemu-img resize` prints after an error of {@link resizeImage}, if there is one. */
export function resizeWarning(error: unknown): string | undefined {
  if (!isBlockError(error) || error.message !== shrinkRefused) {
    return undefined
  }
  return (
    "Shrinking an image will delete all data beyond the shrunken image's end. " +
    'Before performing such an operation, make sure there is no important data there.'
  )
}

/**
 * Changes an image's size and returns the new one, in bytes. The image must have been opened for
 * writing and with `resize`.
 *
 * @throws BlockError `New image size must be positive`,
 *   `Use the --shrink option to perform a shrink operation.`,
 *   `Preallocation can only be used for growing images`, or the driver's own.
 */
export async function resizeImage(
  image: Backend,
  options: ResizeImageOptions,
): Promise<{ readonly size: number }> {
  const { preallocation = 'off' } = options
  const current = image.length
  const size = targetSize(current, options)
  // QEMU's sizes are 63 bits: larger ones have become negative there.
  if (size <= 0 || size >= 2 ** 63) {
    throw blockError('EINVAL', 'New image size must be positive')
  }
  if (size <= current && preallocation !== 'off') {
    throw blockError('EINVAL', 'Preallocation can only be used for growing images')
  }
  if (size < current && options.shrink !== true) {
    throw blockError('EINVAL', shrinkRefused)
  }
  await truncateNode(image.node, size, { exact: true, preallocation, zero: false })
  return { size: image.length }
}

function targetSize(current: number, { size, relative }: ResizeImageOptions): number {
  return relative === undefined ? size : relative === 'grow' ? current + size : current - size
}
