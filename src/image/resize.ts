import type { Backend, Preallocation } from '../graph/index.js'

export interface ResizeImageOptions {
  /** Bytes: the new size, or the difference with `relative`. */
  readonly size: number
  /** `grow` and `shrink` take `size` as a difference; default: absolute. */
  readonly relative?: 'grow' | 'shrink' | undefined
  readonly preallocation?: Preallocation | undefined
  /** Permits shrinking. */
  readonly shrink?: boolean | undefined
  /** Called with the text of warnings, before the error they explain; default: `warning: …` through `host.warn`. */
  readonly warn?: ((text: string) => void) | undefined
}

export interface ResizeImageResult {
  /** Bytes. */
  readonly size: number
  /** Set when the driver could only come near the wanted size. */
  readonly note?: string
}

/**
 * Changes an image's size. The image must have been opened with `resize` and for writing.
 *
 * @throws BlockError `New image size must be positive`,
 *   `Use the --shrink option to perform a shrink operation.`,
 *   `Preallocation can only be used for growing images`, or the driver's own.
 */
export async function resizeImage(image: Backend, options: ResizeImageOptions): Promise<ResizeImageResult> {
  throw new Error(`unfinished ${String(image)} ${String(options)}`)
}
