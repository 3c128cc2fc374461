import { blockError, errnoError } from '../errors/index.js'
import type { OpenContext } from '../graph/index.js'
import type { HostFile } from '../host/index.js'
import type { OptionValue } from '../options/index.js'
import { type HostFileSettings, takeHostFileSettings } from './options.js'
import { isReadOnlyDevice, openPath } from './paths.js'
import { HostFileState } from './state.js'

function isOn(value: OptionValue | undefined): boolean {
  return value === true || value === 'on' || value === 'yes' || value === 'true' || value === 'y'
}

/** Whether the file is of a kind the driver works on. Throws EINVAL. */
function checkKind(file: HostFile, driverName: string, device: boolean, path: string): void {
  if (!device && file.kind !== 'regular') {
    throw blockError('EINVAL', `'${driverName}' driver requires '${path}' to be a regular file`)
  }
  if (device && file.kind !== 'char' && file.kind !== 'block') {
    throw blockError(
      'EINVAL',
      `'${driverName}' driver requires '${path}' to be either a character or block device`,
    )
  }
}

function wantsLocks(settings: HostFileSettings, file: HostFile): boolean {
  if (settings.locking === 'on' && !file.canLock) {
    throw blockError('ENOTSUP', 'File lock requested but OFD locking syscall is unavailable')
  }
  return settings.locking !== 'off' && file.canLock
}

/**
 * Opens the file or device that a node's options name. The checks and their order are QEMU's: words
 * first, then the file itself, then what only the open file can tell.
 *
 * @throws BlockError with QEMU's text; nothing stays open
 */
export async function openHostFile(
  context: OpenContext,
  driverName: string,
  device: boolean,
): Promise<HostFileState> {
  const { node, host, flags } = context
  const settings = takeHostFileSettings(context.options, flags.aio)
  const path = settings.filename ?? context.filename
  if (path === undefined) {
    throw blockError('EINVAL', `The '${driverName}' block driver requires a file name`)
  }
  const direct = isOn(node.options.get('cache.direct'))
  const autoReadOnly = isOn(node.options.get('auto-read-only'))
  try {
    const write = flags.write && !autoReadOnly
    const file = await openPath(host.files, path, { write, direct, aio: settings.aio, noSync: node.noFlush })
    try {
      if (device && write && isReadOnlyDevice(host.files, path)) {
        throw errnoError('EACCES', 'The device is not writable')
      }
      if (settings.aio === 'native' && !direct) {
        throw blockError(
          'EINVAL',
          'aio=native was specified, but it requires cache.direct=on, which was not specified.',
        )
      }
      checkKind(file, driverName, device, path)
      const locks = wantsLocks(settings, file)
      return new HostFileState({ node, path, file, settings, direct, locks, autoReadOnly })
    } catch (error) {
      await file.close()
      throw error
    }
  } finally {
    if (flags.temporary && host.files.stat(path) !== undefined) {
      host.files.unlink(path)
    }
  }
}
