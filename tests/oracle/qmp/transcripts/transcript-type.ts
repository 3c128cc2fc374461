import type { Prepare } from '../same.js'
import type { Step } from '../transcript.js'

/** Steps of which QEMU and our daemon must make the same. */
export interface Transcript {
  readonly name: string
  readonly prepare: Prepare
  readonly steps: readonly Step[]
  /** Default: true. */
  readonly negotiate?: boolean
}
