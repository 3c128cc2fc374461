import type { Backend } from '../graph/index.js'
import type { LongRun } from './long-run.js'

export interface CompareOptions extends LongRun {
  /** `-s`: sizes and block status must match too. */
  readonly strict?: boolean | undefined
  /** Names of the images in messages; default: the nodes' file names. */
  readonly labels?: readonly [string, string] | undefined
  /** Called when the sizes differ and the common part is equal (`Warning: Image size mismatch!`), before the rest is looked at. */
  readonly onSizeMismatch?: (() => void) | undefined
}

/** Outcome of a comparison. Offsets are bytes; contents are compared by whole 512-byte sectors. */
export type CompareResult =
  | { readonly identical: true; readonly sizeMismatch: boolean }
  | { readonly identical: false; readonly sizeMismatch: boolean; readonly reason: 'content' | 'status'; readonly offset: number }
  | { readonly identical: false; readonly sizeMismatch: true; readonly reason: 'size' }

/** The line `qemu-img compare` prints for a result, without newline. */
export function compareMessage(result: CompareResult): string {
  throw new Error(`unfinished ${String(result)}`)
}

/** `qemu-img compare`'s exit code for an error thrown by {@link compareImages}: 3 for status, 4 for read errors, else 1. */
export function compareErrorCode(error: unknown): number {
  throw new Error(`unfinished ${String(error)}`)
}

/**
 * Compares the contents of two images; the longer one must be zero where the other ends.
 *
 * @throws BlockError `Sector allocation test failed for %s`, `Error while reading offset %lld of %s: …`.
 */
export async function compareImages(
  first: Backend,
  second: Backend,
  options: CompareOptions = {},
): Promise<CompareResult> {
  throw new Error(`unfinished ${String(first)} ${String(second)} ${String(options)}`)
}
