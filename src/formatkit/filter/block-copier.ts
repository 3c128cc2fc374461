import type { HierarchicalBitmap } from '../../bytes/index.js'

/** Why a copy failed, and on which side. */
export interface CopyFault {
  readonly error: unknown
  readonly reading: boolean
}

/**
 * A driver state that copies what its node showed when it was opened to a target: before somebody writes
 * to it, and what a job asks for. Offsets and lengths are bytes.
 */
export interface BlockCopier {
  /** What is copied at once; a power of two. */
  readonly clusterSize: number
  /** Clusters that are to be copied; whoever began the copying may take some out. Its granularity is {@link clusterSize}. */
  readonly todo: HierarchicalBitmap
  /** What only a backing file holds is left out. */
  skipUnallocated: boolean
  /** The target is written to with compression. */
  compress: boolean
  /** Called when something is copied, or found to be nothing to copy. */
  onCopied: ((bytes: number) => void) | undefined
  /** Copies what is left of whole clusters. Returns what went wrong; the rest of the range is left then. */
  copy(offset: number, bytes: number): Promise<CopyFault | undefined>
}

export function isBlockCopier(state: object | undefined): state is BlockCopier {
  return state !== undefined && 'todo' in state && 'copy' in state
}
