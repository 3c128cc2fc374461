import type { OptionDict } from '../options/index.js'
import { type OpenFlags, Role } from './flags.js'

function copyDefault(into: OptionDict, from: OptionDict, key: string): void {
  const value = from.get(key)
  if (value !== undefined) {
    into.setDefault(key, value)
  }
}

/**
 * Fills in what a child takes over from its parent (seed rows 43-45, today's option-based rules)
 * and returns the child's flags. `options` are the child's own, which always win.
 */
export function inheritOptions(
  role: number,
  parentIsFormat: boolean,
  parentFlags: Readonly<OpenFlags>,
  parentOptions: OptionDict,
  options: OptionDict,
): OpenFlags {
  const flags: OpenFlags = { ...parentFlags }
  // Should the child be probed? Data children of filters are, children of formats are not,
  // backing files keep what the parent had.
  if (!parentIsFormat && (role & Role.data) !== 0 && (role & (Role.metadata | Role.filtered)) === 0) {
    flags.protocol = false
  }
  if ((parentIsFormat && (role & Role.cow) === 0) || (role & Role.metadata) !== 0) {
    flags.protocol = true
  }
  copyDefault(options, parentOptions, 'cache.direct')
  copyDefault(options, parentOptions, 'cache.no-flush')
  copyDefault(options, parentOptions, 'force-share')
  if ((role & Role.cow) !== 0) {
    options.setDefault('read-only', true)
    options.setDefault('auto-read-only', false)
    flags.temporary = false
  } else {
    copyDefault(options, parentOptions, 'read-only')
    copyDefault(options, parentOptions, 'auto-read-only')
  }
  // Drivers send flushes and respect the unmap policy themselves, so lower layers may always unmap.
  options.setDefault('discard', 'unmap')
  flags.unmap = true
  flags.snapshot = false
  flags.noBacking = false
  flags.copyOnRead = false
  if ((role & Role.metadata) !== 0) {
    flags.noIo = false
  }
  return flags
}
