import type { BlockDriver } from '../../../graph/index.js'

/** Disk images of macOS (UDIF), read-only. */
export const dmg: BlockDriver = {
  name: 'dmg',
  kind: 'format',
  options: {},
  // Nothing at the start tells; the trailer is at the end.
  probe: (_head, filename) =>
    filename !== undefined && filename.length > 4 && filename.endsWith('.dmg') ? 2 : 0,
  load: () => import('./module.js'),
}
