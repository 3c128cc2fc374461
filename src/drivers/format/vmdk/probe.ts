import { readU32BE } from '../../../bytes/index.js'
import { latin1 } from './descriptor.js'
import { cowdMagic, sparseMagic } from './sparse-header.js'

/** 100 for an extent's magic, or a descriptor that begins with its version behind comments and blanks. */
export function probeVmdk(head: Uint8Array): number {
  if (head.length < 4) {
    return 0
  }
  const magic = readU32BE(head, 0)
  if (magic === sparseMagic || magic === cowdMagic) {
    return 100
  }
  return /^(?:#[^\n]*\n| +\r?\n)*version=[123]\r?\n/.test(latin1(head)) ? 100 : 0
}
