import type { Backend, CheckFix } from '../graph/index.js'

/** QAPI's `ImageCheck` with keys in the order `qemu-img check --output=json` prints them; absent keys are absent there too. */
export interface ImageCheck {
  'image-end-offset'?: number
  'total-clusters'?: number
  'check-errors': number
  leaks?: number
  'leaks-fixed'?: number
  'allocated-clusters'?: number
  filename: string
  format: string
  'fragmented-clusters'?: number
  'compressed-clusters'?: number
  corruptions?: number
  'corruptions-fixed'?: number
}

export interface CheckImageOptions {
  /** `-r`: what to repair; the image must be open for writing then. */
  readonly fix?: CheckFix | undefined
  /** Name of the image in the result; default: the node's file name. */
  readonly label?: string | undefined
  readonly signal?: AbortSignal | undefined
  /** Called with each line about an inconsistency as it is found, in order. */
  readonly message?: ((line: string) => void) | undefined
  /** Called after repairs and before the second check, with what was repaired. */
  readonly onRepaired?: ((leaks: number, corruptions: number) => void) | undefined
}

export interface CheckImageResult {
  readonly check: ImageCheck
  /** Whether something was repaired and the image checked again. */
  readonly repaired: boolean
  /** `qemu-img check`'s exit code: 0 clean, 1 internal errors, 2 corruptions, 3 leaks only. */
  readonly exitCode: 0 | 1 | 2 | 3
  /** Lines about inconsistencies, of both runs. */
  readonly messages: readonly string[]
}

/**
 * Checks an image and repairs it if asked to; after repairs it is checked again and the result is
 * that of the second run, with the numbers of repairs of the first.
 *
 * @throws BlockError `ENOTSUP` `This image format does not support checks` (exit code 63).
 */
export async function checkImage(image: Backend, options: CheckImageOptions = {}): Promise<CheckImageResult> {
  throw new Error(`unfinished ${String(image)} ${String(options)}`)
}

/** The human report of a check, lines without newline at the end, as `qemu-img check` prints it on stdout. */
export function checkReport(check: ImageCheck): string[] {
  throw new Error(`unfinished ${String(check)}`)
}
