import type { BlockLayer } from '../graph/index.js'
import type { CreateOptionInput } from './create-options.js'
import type { LongRun } from './long-run.js'
import type { ImageSpec } from './open.js'

export interface ConvertOptions extends LongRun {
  /** Concatenated in order. */
  readonly sources: readonly (ImageSpec | string)[]
  readonly target: ImageSpec | string
  /** Target format; default `raw`. With `target.options` the format is theirs. */
  readonly format?: string | undefined
  /** `-o`. */
  readonly options?: CreateOptionInput | undefined
  /** `-B` and `-F`: what the target leaves unallocated is read from this image. */
  readonly backing?: { readonly file: string; readonly format?: string | undefined } | undefined
  /** `-c`. */
  readonly compress?: boolean | undefined
  /** `-C`: copy inside the kernel where both sides can. */
  readonly copyOffload?: boolean | undefined
  /** `-S`: zeroes of at least this many bytes become holes; default 4096; 0 keeps the target fully allocated. */
  readonly sparseSize?: number | undefined
  /** `-m`: requests in flight, 1 to 16; default 8. */
  readonly parallel?: number | undefined
  /** `-W`: write in any order. */
  readonly outOfOrder?: boolean | undefined
  /** `-n`: the target exists. */
  readonly skipCreate?: boolean | undefined
  /** `--target-is-zero`; needs `skipCreate`. */
  readonly targetIsZero?: boolean | undefined
  /** `--target-image-opts`: the target is given as options; needs `skipCreate`. */
  readonly targetImageOptions?: boolean | undefined
  /** `-l`: id or name of an internal snapshot of the only source. */
  readonly snapshot?: string | undefined
  /** `-r`: bytes per second written to the target at most. */
  readonly rateLimit?: number | undefined
  /** `--salvage`: unreadable sectors become zeroes, with a warning each. */
  readonly salvage?: boolean | undefined
  /** `-q`: no warnings from salvaging. */
  readonly quiet?: boolean | undefined
  /** `-t`; default `unsafe`. */
  readonly cache?: string | undefined
  /** `-T`; default `writeback`. */
  readonly sourceCache?: string | undefined
  /** Called with the text of warnings; default: `warning: …` through `host.warn`. */
  readonly warn?: ((text: string) => void) | undefined
}

export interface ConvertResult {
  /** Guest bytes of the target. */
  readonly size: number
  /** Bytes that were read and written as data, as the status of the source told beforehand. */
  readonly dataBytes: number
}

/**
 * Converts images: `qemu-img convert`.
 *
 * A target that is a plain new file is written under a temporary name beside its place and renamed
 * when it is complete, so whatever goes wrong, even a killed process, leaves nothing half-written under its
 * name. A file that existed before is overwritten in place, as QEMU does: replacing it would lose its
 * permissions, links and locks. Nothing is touched before sources and options have been checked.
 *
 * @throws BlockError with QEMU's text.
 */
export async function convertImage(layer: BlockLayer, options: ConvertOptions): Promise<ConvertResult> {
  throw new Error(`unfinished ${String(layer)} ${String(options)}`)
}
