import { blockError, isBlockError, prefixed } from '../errors/index.js'
import { Backend, type BlockLayer, type BlockNode, Perm } from '../graph/index.js'
import type { FuseChannel, HostFuse } from '../host/index.js'
import { FuseFile, maxTransferBytes } from './fuse-file.js'

/** QAPI `BlockExportOptionsFuse` with what every export has. */
export interface FuseExportOptions {
  /** A regular file, over which the image is shown. */
  readonly mountpoint: string
  /** Default false. */
  readonly writable?: boolean
  /** Writes behind the end make the image longer. Default false. */
  readonly growable?: boolean
  /** Whether other users may reach it; `auto`: if the system allows that. Default `auto`. */
  readonly allowOther?: 'off' | 'on' | 'auto'
  /** Every write is durable when it is answered. Default false. */
  readonly writeThrough?: boolean
}

/** Mountpoints in use by this process, by platform. */
const mountpoints = new WeakMap<HostFuse, Set<string>>()

function mountpointsOf(fuse: HostFuse): Set<string> {
  const known = mountpoints.get(fuse) ?? new Set<string>()
  mountpoints.set(fuse, known)
  return known
}

/**
 * A node of the block graph as a regular file of raw bytes, through FUSE. It has a backend of its own. The
 * mount ends with {@link close} and with the process, whatever ends that.
 */
export class FuseExport {
  readonly mountpoint: string
  readonly backend: Backend
  /** Settles when the mount is gone, whoever has taken it away. */
  readonly done: Promise<void>
  readonly #channel: FuseChannel
  #closing: Promise<void> | undefined

  private constructor(mountpoint: string, backend: Backend, channel: FuseChannel, done: Promise<void>) {
    this.mountpoint = mountpoint
    this.backend = backend
    this.#channel = channel
    this.done = done
  }

  /**
   * Mounts `node`, which gets a further reference.
   *
   * @throws BlockError with QEMU's text; nothing stays mounted or open
   */
  static async create(layer: BlockLayer, node: BlockNode, options: FuseExportOptions): Promise<FuseExport> {
    const { files, fuse } = layer.host
    const { mountpoint, writable = false, growable = false, allowOther = 'auto' } = options
    if (fuse === undefined) {
      throw blockError('ENOTSUP', 'FUSE is not available here')
    }
    if (writable && node.readOnly) {
      throw blockError('EINVAL', 'Cannot export read-only node as writable')
    }
    const stat = files.stat(mountpoint)
    if (stat === undefined) {
      throw blockError('ENOENT', `Failed to stat '${mountpoint}': No such file or directory`)
    }
    if (stat.kind !== 'regular') {
      throw blockError('EINVAL', `'${mountpoint}' is not a regular file`)
    }
    const path = files.realPath(mountpoint) ?? mountpoint
    const mounted = mountpointsOf(fuse)
    if (mounted.has(path)) {
      throw blockError('EEXIST', `There already is a FUSE export on '${mountpoint}'`)
    }
    const backend = new Backend(layer, {
      perm: Perm.consistentRead | (writable ? Perm.write : 0) | (growable ? Perm.resize : 0),
      shared: Perm.all,
      writeThrough: options.writeThrough ?? false,
    })
    backend.allowAioContextChange = true
    mounted.add(path)
    try {
      await backend.insert(node)
      const { channel, others } = await mount(fuse, path, allowOther)
      const { user, group } = fuse
      const file = new FuseFile(backend, channel, { writable, growable, allowOther: others, user, group })
      const done = file.serve().finally(() => {
        mounted.delete(path)
      })
      return new FuseExport(mountpoint, backend, channel, done)
    } catch (error) {
      mounted.delete(path)
      await backend.close()
      throw error
    }
  }

  /** Takes the mount away, waits for what is being answered, and gives the backend back. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    try {
      await this.#channel.unmount()
      await this.done
    } finally {
      await this.backend.close()
    }
  }
}

async function mount(
  fuse: HostFuse,
  path: string,
  allowOther: 'off' | 'on' | 'auto',
): Promise<{ readonly channel: FuseChannel; readonly others: boolean }> {
  const attempt = async (others: boolean): Promise<{ channel: FuseChannel; others: boolean }> => ({
    channel: await fuse.mount(path, { allowOther: others, maxWrite: maxTransferBytes }),
    others,
  })
  try {
    return await attempt(allowOther !== 'off')
  } catch (error) {
    if (allowOther === 'auto' && isBlockError(error) && (error.code === 'EPERM' || error.code === 'EACCES')) {
      return await attempt(false)
    }
    throw prefixed(error, 'Failed to mount FUSE session to export: ')
  }
}
