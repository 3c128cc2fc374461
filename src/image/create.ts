import type { BlockLayer } from '../graph/index.js'
import type { CreateOptionInput } from './create-options.js'

export interface CreateImageOptions {
  /** Where to create it; an existing file is overwritten. */
  readonly filename: string
  /** Default `raw`. */
  readonly format?: string | undefined
  readonly backing?:
    | {
        readonly file?: string | undefined
        readonly format?: string | undefined
        /** `-u`: do not open the backing file. A size is then required. */
        readonly unsafe?: boolean | undefined
      }
    | undefined
  readonly options?: CreateOptionInput | undefined
  /** Bytes; default: the backing file's length. */
  readonly size?: number | undefined
  /** Called with the banner (`Formatting '…', fmt=…`, no newline) right before the files are made. */
  readonly announce?: ((banner: string) => void) | undefined
  /** Called with the text of warnings; default: `warning: …` through `host.warn`. */
  readonly warn?: ((text: string) => void) | undefined
}

export interface CreateImageResult {
  /** `Formatting '…', fmt=… name=value …` without newline. */
  readonly banner: string
  /** Bytes. */
  readonly size: number
}

/**
 * Creates an image by `qemu-img create`'s rules (seed rows 20-28). A create that fails removes what
 * it made, unless the file existed before.
 *
 * @throws BlockError with QEMU's text; the tool puts `%s: ` (the file name) before it.
 */
export async function createImage(layer: BlockLayer, options: CreateImageOptions): Promise<CreateImageResult> {
  throw new Error(`unfinished ${String(layer)} ${String(options)}`)
}
