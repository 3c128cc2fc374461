import { type BlockError, blockError, codeOf, strerror } from '../errors/index.js'
import type { FileOpenOptions, HostFile, HostFiles } from '../host/index.js'

/** Attributes in sysfs claim to be a page long, whatever they hold; pages can be large. Bytes. */
const sysfsLimit = 1 << 16

function refused(error: unknown, action: 'open' | 'create', path: string, direct: boolean): BlockError {
  const code = codeOf(error)
  const reason = code === 'EINVAL' && direct ? 'filesystem does not support O_DIRECT' : strerror(code)
  // A read-only file system is one more reason why the image may not be written.
  const reported = code === 'EROFS' && action === 'open' ? 'EACCES' : code
  return blockError(reported, `Could not ${action} '${path}': ${reason}`, { cause: error })
}

/** Opens `path`; failures read `Could not open '%s': …`. */
export async function openPath(files: HostFiles, path: string, options: FileOpenOptions): Promise<HostFile> {
  try {
    return await files.open(path, options)
  } catch (error) {
    throw refused(error, 'open', path, options.direct ?? false)
  }
}

/** Opens `path` for writing and creates it if need be, empty; failures read `Could not create '%s': …`. */
export async function createPath(files: HostFiles, path: string): Promise<HostFile> {
  try {
    return await files.open(path, { write: true, create: true, mode: 0o644 })
  } catch (error) {
    throw refused(error, 'create', path, false)
  }
}

/**
 * Whether a block device is set read-only (`blockdev --setro`): it can be opened for writing all
 * the same, but every write fails.
 */
export function isReadOnlyDevice(files: HostFiles, path: string): boolean {
  const name = files.realPath(path)?.split('/').at(-1)
  if (name === undefined) {
    return false
  }
  try {
    return files.readWhole(`/sys/class/block/${name}/ro`, sysfsLimit)[0] === 0x31
  } catch (error) {
    // Not Linux, or no such attribute: then the writes will tell.
    codeOf(error)
    return false
  }
}
