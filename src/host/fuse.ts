import type { Maybe } from '../sched/index.js'

export interface FuseMountOptions {
  /** Other users may reach the mount, as far as its mode lets them. */
  readonly allowOther: boolean
  /** Largest write that is asked for in one request, bytes. */
  readonly maxWrite: number
}

/** The kernel's side of a mounted FUSE file system: requests come from it, replies go to it. */
export interface FuseChannel {
  /** The next request as a whole, which the taker may keep; undefined: it is not mounted any more. */
  receive(): Maybe<Uint8Array | undefined>
  /** Answers a request; `data` follows the header as it is. What nobody waits for any more is dropped. */
  reply(header: Uint8Array, data?: Uint8Array): void
  /** Takes the mount away, also while it is in use; {@link receive} comes to its end. */
  unmount(): Promise<void>
}

export interface HostFuse {
  /** The user and group that files are shown to belong to. */
  readonly user: number
  readonly group: number
  /**
   * Mounts on a regular file.
   *
   * @throws BlockError EPERM/EACCES if that is not allowed, with `allowOther` perhaps without it; ENODEV without FUSE
   */
  mount(path: string, options: FuseMountOptions): Promise<FuseChannel>
}
