import { spawn } from 'node:child_process'
import fs from 'node:fs'
import { blockError } from '../../../errors/index.js'
import type { FuseChannel, FuseMountOptions } from '../../../host/index.js'
import type { Maybe } from '../../../sched/index.js'
import { fromErrno, fromNode } from '../errors.js'
import { systemLibrary } from '../koffi.js'
import { libc } from '../libc.js'

/** mount(2) and umount2(2), which take strings and so stand beside the binding in libc.ts. */
interface MountCalls {
  mount(source: string, target: string, type: string, flags: number, data: string): number
  unmount(target: string, flags: number): number
  errno(): number
}

const MS_NOSUID = 2
const MS_NODEV = 4
const MNT_DETACH = 2

/** Header of a request, and what precedes the data of a write. Bytes. */
const frontBytes = 4096

function mountCalls(): MountCalls | undefined {
  return systemLibrary('libc.so.6', (library, koffi) => {
    const mount = library.func('int mount(str source, str target, str type, uint64 flags, str data)')
    const unmount = library.func('int umount2(str target, int flags)')
    return {
      mount: (...args) => Number(mount(...args)),
      unmount: (...args) => Number(unmount(...args)),
      errno: () => koffi.errno(),
    }
  })
}

/**
 * Opens `/dev/fuse` and mounts it on a file. Needs the right to mount: root's, or that of a user namespace.
 *
 * @throws BlockError
 */
export async function mountFuse(path: string, options: FuseMountOptions): Promise<FuseChannel> {
  const calls = mountCalls()
  if (calls === undefined) {
    throw blockError('ENOTSUP', 'FUSE is not available here')
  }
  let fd: number
  try {
    fd = fs.openSync('/dev/fuse', fs.constants.O_RDWR)
  } catch (error) {
    throw fromNode(error)
  }
  const user = process.getuid?.() ?? 0
  const group = process.getgid?.() ?? 0
  const data = [
    `fd=${fd}`,
    'rootmode=100000',
    `user_id=${user}`,
    `group_id=${group}`,
    'default_permissions',
    ...(options.allowOther ? ['allow_other'] : []),
  ].join(',')
  const result = calls.mount('blockgraph', path, 'fuse', MS_NOSUID | MS_NODEV, data)
  if (result !== 0) {
    const errno = calls.errno()
    fs.closeSync(fd)
    throw fromErrno(errno)
  }
  return await Promise.resolve(new DeviceChannel(fd, path, options.maxWrite, calls))
}

/** Requests and replies through `/dev/fuse`. While nothing comes, one thread of the pool waits for it. */
class DeviceChannel implements FuseChannel {
  readonly #fd: number
  readonly #path: string
  readonly #calls: MountCalls
  readonly #buffer: Buffer
  /** For poll(2): descriptor, events, results. */
  readonly #poll: Uint8Array
  readonly #now = new Uint8Array(16)
  #closed = false

  constructor(fd: number, path: string, maxWrite: number, calls: MountCalls) {
    this.#fd = fd
    this.#path = path
    this.#calls = calls
    this.#buffer = Buffer.allocUnsafeSlow(maxWrite + frontBytes)
    const poll = new DataView(new ArrayBuffer(8))
    poll.setInt32(0, fd, true)
    poll.setInt16(4, 1, true)
    this.#poll = new Uint8Array(poll.buffer)
  }

  receive(): Maybe<Uint8Array | undefined> {
    if (this.#closed) {
      return undefined
    }
    if ((libc()?.ppoll(this.#poll, 1, this.#now) ?? 0) > 0) {
      try {
        return this.#taken(fs.readSync(this.#fd, this.#buffer))
      } catch (error) {
        return this.#failed(error)
      }
    }
    return this.#wait()
  }

  #wait(): Promise<Uint8Array | undefined> {
    return new Promise((resolve, reject) => {
      fs.read(this.#fd, this.#buffer, 0, this.#buffer.length, null, (error, bytes) => {
        if (error === null) {
          resolve(this.#taken(bytes))
          return
        }
        try {
          resolve(this.#failed(error))
        } catch (failure) {
          reject(failure as Error)
        }
      })
    })
  }

  #taken(bytes: number): Uint8Array {
    return new Uint8Array(this.#buffer.subarray(0, bytes))
  }

  /** Requests that were withdrawn while they were read are none; ENODEV is the end of the mount. */
  #failed(error: unknown): Maybe<Uint8Array | undefined> {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'EINTR' || code === 'EAGAIN') {
      return this.receive()
    }
    this.#close()
    if (code === 'ENODEV') {
      return undefined
    }
    throw fromNode(error)
  }

  reply(header: Uint8Array, data?: Uint8Array): void {
    if (this.#closed) {
      return
    }
    try {
      if (data === undefined) {
        fs.writeSync(this.#fd, header)
      } else {
        fs.writevSync(this.#fd, [header, data])
      }
    } catch (error) {
      // The request was interrupted, or the mount is gone.
      const { code } = error as NodeJS.ErrnoException
      if (code !== 'ENOENT' && code !== 'ENODEV' && code !== 'EPERM') {
        throw fromNode(error)
      }
    }
  }

  #close(): void {
    if (!this.#closed) {
      this.#closed = true
      fs.closeSync(this.#fd)
    }
  }

  async unmount(): Promise<void> {
    if (this.#closed) {
      return
    }
    if (this.#calls.unmount(this.#path, MNT_DETACH) !== 0) {
      // Without the right to unmount, the helper may have it.
      await new Promise<void>((resolve) => {
        spawn('fusermount3', ['-u', '-z', '--', this.#path], { stdio: 'ignore' })
          .on('error', () => resolve())
          .on('close', () => resolve())
      })
    }
  }
}
