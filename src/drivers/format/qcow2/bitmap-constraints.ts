import { blockError } from '../../../errors/index.js'
import {
  maxBitmapBytes,
  maxGranularityBits,
  maxNameBytes,
  maxTableEntries,
  minGranularityBits,
} from './bitmap-directory.js'
import type { Qcow2Header } from './header.js'

/** A name as the directory holds it. */
export function encodeName(name: string): Uint8Array {
  return new TextEncoder().encode(name)
}

/** Throws EINVAL, with QEMU's text, if a bitmap like this cannot be stored in an image of `size` guest bytes. */
export function checkConstraints(name: string, granularity: number, size: number, header: Qcow2Header): void {
  if (granularity > 2 ** maxGranularityBits) {
    throw blockError('EINVAL', `Granularity exceeds maximum (${2 ** maxGranularityBits} bytes)`)
  }
  if (granularity < 2 ** minGranularityBits) {
    throw blockError('EINVAL', `Granularity is under minimum (${2 ** minGranularityBits} bytes)`)
  }
  const bytes = Math.ceil(Math.ceil(size / granularity) / 8)
  if (bytes > maxBitmapBytes || bytes > maxTableEntries * header.clusterSize) {
    throw blockError('EINVAL', 'Too much space will be occupied by the bitmap. Use larger granularity')
  }
  if (encodeName(name).length > maxNameBytes) {
    throw blockError('EINVAL', `Name length exceeds maximum (${maxNameBytes} characters)`)
  }
}
