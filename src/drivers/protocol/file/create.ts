import { blockError, codeOf, errnoError } from '../../../errors/index.js'
import { type CreateContext, Perm, type Preallocation } from '../../../graph/index.js'
import type { Host, HostFile } from '../../../host/index.js'
import { createPath, PermissionLocks, parseWord, resizeRegularFile } from '../../../hostfile/index.js'
import type { OptionsOf } from '../../../options/index.js'
import type { fileCreateOptions } from './options.js'

/** Extent size hint when none is given, bytes. */
const defaultExtentSize = 1 << 20
/** The kernel keeps the hint in 32 bits. */
const maxExtentSize = 0xffffffff

/**
 * Creates a regular file of the given size, or makes an existing one of it, which loses its contents.
 * A file that is in use by someone who does not share it stays untouched.
 *
 * @throws BlockError with QEMU's text; a file that did not exist before is gone again
 */
export async function create(context: CreateContext): Promise<void> {
  const { host, filename } = context
  const options: OptionsOf<typeof fileCreateOptions> = context.options
  const path = filename.startsWith('file:') ? filename.slice('file:'.length) : filename
  const size = Math.ceil((options.size ?? 0) / 512) * 512
  const preallocation = parseWord(options.preallocation, ['off', 'metadata', 'falloc', 'full'])
  if ((options.extent_size_hint ?? 0) > maxExtentSize) {
    throw blockError('EINVAL', 'Extent size hint is too large')
  }
  const existed = host.files.stat(path) !== undefined
  const file = await createPath(host.files, path)
  try {
    await fill(host, file, path, size, preallocation, options)
  } catch (error) {
    await close(file).catch(codeOf)
    if (!existed) {
      host.files.unlink(path)
    }
    throw error
  }
  await close(file)
}

async function fill(
  host: Host,
  file: HostFile,
  path: string,
  size: number,
  preallocation: Preallocation,
  options: OptionsOf<typeof fileCreateOptions>,
): Promise<void> {
  const warn = (line: string): void => {
    host.warn(line)
  }
  const locks = new PermissionLocks(file, path)
  // The size is promised until the end of this function, so nobody else may resize meanwhile.
  locks.prepare(Perm.write | Perm.resize, Perm.all & ~Perm.resize)
  await resizeRegularFile(file, 0, 'off', warn)
  if (options.nocow === true) {
    file.setNoCopyOnWrite?.()
  }
  const hint = options.extent_size_hint ?? defaultExtentSize
  const hinted = file.setExtentSizeHint?.(hint) ?? true
  if (!hinted && hint !== 0 && options.extent_size_hint !== undefined) {
    warn('warning: Failed to set extent size hint: Operation not supported')
  }
  await resizeRegularFile(file, size, preallocation, warn)
}

/** Closes the new file; the locks go with it. */
async function close(file: HostFile): Promise<void> {
  try {
    const wait = file.close()
    if (wait !== undefined) {
      await wait
    }
  } catch (error) {
    throw errnoError(codeOf(error), 'Could not close the new file', { cause: error })
  }
}
