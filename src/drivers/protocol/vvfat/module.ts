import { blockError } from '../../../errors/index.js'
import { applyAutoReadOnly, type OpenContext } from '../../../graph/index.js'
import { takeOptions } from '../../../options/index.js'
import type { Maybe } from '../../../sched/index.js'
import { buildDisk } from './build.js'
import { chooseGeometry } from './geometry.js'
import { vvfatOptions } from './options.js'
import { VvfatState } from './state.js'
import { WritableState } from './writable.js'

export function open(context: OpenContext): Maybe<VvfatState> {
  const { host, node } = context
  const given = takeOptions(context.options, vvfatOptions)
  if (given.dir === undefined) {
    throw blockError('EINVAL', "vvfat block driver requires a 'dir' option")
  }
  const label = given.label ?? 'QEMU VVFAT'
  if (new TextEncoder().encode(label).length > 11) {
    throw blockError('EINVAL', 'vvfat label cannot be longer than 11 bytes')
  }
  const geometry = chooseGeometry(given['fat-type'] ?? 0, given.floppy ?? false)
  if (geometry.fatType === 32) {
    host.warn('warning: FAT32 has not been tested. You are welcome to do so!')
  }
  if (given.rw === true) {
    if (!node.flags.write) {
      throw blockError('EPERM', "Unable to set VVFAT to 'rw' when drive is read-only")
    }
    if (geometry.fatType === 32) {
      // No system can mount QEMU's FAT32 layout, and QEMU itself loses what is written to it.
      throw blockError(
        'ENOTSUP',
        "Writing to a folder through vvfat ('rw') is not supported with FAT32, only with FAT12 and FAT16",
      )
    }
    if (host.files.makeFolder === undefined) {
      throw blockError('ENOTSUP', "Writing to a folder through vvfat ('rw') is not supported here")
    }
    return WritableState.open(node, host, given.dir, buildDisk(host, given.dir, label, geometry))
  }
  applyAutoReadOnly(context)
  return new VvfatState(node, host.files, buildDisk(host, given.dir, label, geometry))
}
