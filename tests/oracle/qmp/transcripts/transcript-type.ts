import type { Prepare, SameOptions } from '../same.js'
import type { Step } from '../transcript.js'

/** Steps of which QEMU and our daemon must make the same. */
export interface Transcript extends SameOptions {
  readonly name: string
  readonly prepare: Prepare
  readonly steps: readonly Step[]
}
