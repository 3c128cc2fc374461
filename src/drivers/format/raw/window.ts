import { blockError } from '../../../errors/index.js'
import { type OptionDict, takeOptions } from '../../../options/index.js'
import { rawOptions } from './options.js'

/** The part of the file that the image is. Bytes. */
export interface Window {
  readonly offset: number
  /** Undefined: up to the end of the file, which may move. */
  readonly size: number | undefined
}

/**
 * Takes the driver's options out of `options`.
 *
 * @throws BlockError EINVAL, with QEMU's text, if the window does not fit into a file of `fileLength` bytes
 */
export function takeWindow(options: OptionDict, fileLength: number): Window {
  const given = takeOptions(options, rawOptions)
  const window: Window = { offset: given.offset ?? 0, size: given.size }
  checkWindow(window, fileLength)
  if (!Number.isSafeInteger(window.offset)) {
    throw blockError('EINVAL', 'Disk size too large for the chosen offset')
  }
  return window
}

/** Throws EINVAL, with QEMU's text, if `window` does not fit into a file of `fileLength` bytes. */
function checkWindow({ offset, size }: Window, fileLength: number): void {
  if (offset > fileLength) {
    throw blockError(
      'EINVAL',
      `Offset (${offset}) cannot be greater than size of the containing file (${fileLength})`,
    )
  }
  if (size === undefined) {
    return
  }
  if (fileLength - offset < size) {
    throw blockError(
      'EINVAL',
      `The sum of offset (${offset}) and size (${size}) has to be smaller or equal to the ` +
        ` actual size of the containing file (${fileLength})`,
    )
  }
  // Rounding the length up to a sector would let the guest out of the window.
  if (size % 512 !== 0) {
    throw blockError('EINVAL', 'Specified size is not multiple of 512')
  }
}
