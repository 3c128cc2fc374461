import { type ListedExport, TransmissionFlags } from '../../nbd/index.js'

/** How flags are called, in the order of their bits. */
const flagNames: readonly (readonly [number, string])[] = [
  [TransmissionFlags.readOnly, 'readonly'],
  [TransmissionFlags.sendFlush, 'flush'],
  [TransmissionFlags.sendFua, 'fua'],
  [TransmissionFlags.rotational, 'rotational'],
  [TransmissionFlags.sendTrim, 'trim'],
  [TransmissionFlags.sendWriteZeroes, 'zeroes'],
  [TransmissionFlags.sendDf, 'df'],
  [TransmissionFlags.canMultiConn, 'multi'],
  [TransmissionFlags.sendResize, 'resize'],
  [TransmissionFlags.sendCache, 'cache'],
  [TransmissionFlags.sendFastZero, 'fast-zero'],
]

/** What `-L` prints. */
export function listText(exports: readonly ListedExport[]): string {
  const lines = [`exports available: ${exports.length}`]
  for (const one of exports) {
    lines.push(` export: '${one.name}'`)
    if (one.description !== undefined && one.description !== '') {
      lines.push(`  description: ${one.description}`)
    }
    if ((one.flags & TransmissionFlags.hasFlags) !== 0) {
      const names = flagNames.filter(([bit]) => (one.flags & bit) !== 0).map(([, name]) => ` ${name}`)
      lines.push(`  size:  ${one.size}`, `  flags: 0x${one.flags.toString(16)} (${names.join('')} )`)
    }
    if (one.minimumBlock !== 0) {
      lines.push(`  min block: ${one.minimumBlock}`)
      lines.push(`  opt block: ${one.preferredBlock}`)
      lines.push(`  max block: ${one.maximumBlock}`)
    }
    if (one.contexts.length > 0) {
      lines.push(`  available meta contexts: ${one.contexts.length}`)
      lines.push(...one.contexts.map((name) => `   ${name}`))
    }
  }
  return `${lines.join('\n')}\n`
}
