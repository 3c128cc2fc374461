/** What the block layer needs from its platform: interfaces only. May import errors and sched. */
export * from './ciphers.js'
export * from './codecs.js'
export * from './files.js'
export * from './fuse.js'
export * from './http.js'
export * from './nbd-devices.js'
export * from './sockets.js'
export * from './ssh.js'
export * from './threads.js'
export * from './xml.js'
export * from './zones.js'

import type { Clock } from '../sched/index.js'
import type { HostCiphers } from './ciphers.js'
import type { HostCodecs } from './codecs.js'
import type { HostFiles } from './files.js'
import type { HostFuse } from './fuse.js'
import type { HostHttp } from './http.js'
import type { HostNbdDevices } from './nbd-devices.js'
import type { HostSockets } from './sockets.js'
import type { HostSsh } from './ssh.js'
import type { HostThreads } from './threads.js'
import type { HostXml } from './xml.js'

/** A platform. `platform/node` implements it; others may follow. */
export interface Host {
  readonly files: HostFiles
  readonly codecs: HostCodecs
  /** Absent: encrypted images cannot be used. */
  readonly ciphers?: HostCiphers | undefined
  /** Absent: everything runs on one thread. */
  readonly threads?: HostThreads
  /** Absent: nothing reaches the network. */
  readonly sockets?: HostSockets
  /** Absent: web servers cannot be read from. */
  readonly http?: HostHttp
  /** Absent: files cannot be reached over SSH. */
  readonly ssh?: HostSsh
  /** Absent: images cannot be mounted as files. */
  readonly fuse?: HostFuse
  /** Absent: the kernel has no NBD devices that could show an image. */
  readonly nbdDevices?: HostNbdDevices
  /** Absent: OVA packages cannot be read. */
  readonly xml?: HostXml
  /** What limits and timeouts go by; absent: the platform's monotonic clock. */
  readonly clock?: Clock
  /** Decides the path rules: drive letters and backslashes count only on win32 (seed L94-163). */
  readonly pathStyle: 'posix' | 'win32'
  /** `length` random bytes, for identifiers and salts. */
  randomBytes(length: number): Uint8Array
  /** Whether `bytes` bytes of `a` from `aOffset` and of `b` from `bOffset` are equal; both ranges exist. */
  sameBytes(a: Uint8Array, aOffset: number, b: Uint8Array, bOffset: number, bytes: number): boolean
  /** Writes a line to the user, such as the probed-raw warning; it may begin with `warning: ` or `error: `. */
  warn(line: string): void
  /** Writes a line that is output rather than a warning, such as what blkdebug tells; absent: dropped. */
  print?(line: string): void
  /**
   * Tells the user `line` and ends the program at once, with code 1, for checks that must not be missed
   * (blkverify); absent or returning: the request at hand fails with that text.
   */
  abort?(line: string): void
  /** Page size in bytes. */
  readonly pageSize: number
}
