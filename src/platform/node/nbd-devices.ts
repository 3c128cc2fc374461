import fs from 'node:fs'
import { blockError } from '../../errors/index.js'
import type { HostSocket, NbdDevice, NbdDeviceGeometry } from '../../host/index.js'
import { Errno, fromErrno, fromNode } from './errors.js'
import { type Libc, libc } from './libc.js'
import { RawSocket } from './sockets/raw-socket.js'

/** linux/nbd.h */
const request = {
  setSocket: 0xab00,
  setBlockSize: 0xab01,
  doIt: 0xab03,
  clearSocket: 0xab04,
  clearQueue: 0xab05,
  setBlocks: 0xab07,
  disconnect: 0xab08,
  setFlags: 0xab0a,
} as const
/** linux/fs.h: BLKROSET */
const setReadOnly = 0x125d
/** NBD_FLAG_READ_ONLY */
const readOnlyFlag = 2

/** Linux' NBD client, through the ioctls of its devices. */
export class NodeNbdDevices {
  readonly #libc: Libc | undefined

  constructor(c = libc()) {
    this.#libc = c
  }

  /** As `HostNbdDevices.open`. */
  open(path: string): NbdDevice {
    if (this.#libc === undefined) {
      throw blockError('ENOTSUP', 'Kernel /dev/nbdN support not available')
    }
    try {
      return new LinuxNbdDevice(this.#libc, fs.openSync(path, fs.constants.O_RDWR), path)
    } catch (error) {
      throw fromNode(error)
    }
  }
}

class LinuxNbdDevice implements NbdDevice {
  readonly #libc: Libc
  readonly #fd: number
  readonly #path: string
  #open = true

  constructor(c: Libc, fd: number, path: string) {
    this.#libc = c
    this.#fd = fd
    this.#path = path
  }

  #set(what: number, value: number): number {
    return this.#libc.ioctlValue(this.#fd, what, value)
  }

  attach(socket: HostSocket, { size, blockSize, flags }: NbdDeviceGeometry): void {
    if (!(socket instanceof RawSocket)) {
      throw blockError('ENOTSUP', 'Kernel /dev/nbdN support not available')
    }
    // From here on the kernel is the only one who reads.
    socket.paused = true
    const steps: readonly (readonly [number, number, string])[] = [
      [request.setSocket, socket.fd, 'Failed to set NBD socket'],
      [request.setBlockSize, blockSize, 'Failed setting NBD block size'],
      [request.setBlocks, Math.floor(size / blockSize), 'Failed setting size (in blocks)'],
    ]
    for (const [what, value, text] of steps) {
      this.#check(this.#set(what, value), text)
    }
    const result = this.#set(request.setFlags, flags)
    if (result === -Errno.ENOTTY) {
      // A kernel that knows no flags.
      const readOnly = Int32Array.of((flags & readOnlyFlag) === 0 ? 0 : 1)
      const set = this.#libc.ioctl(this.#fd, setReadOnly, new Uint8Array(readOnly.buffer))
      this.#check(set, 'Failed setting read-only attribute')
    } else {
      this.#check(result, 'Failed setting flags')
    }
  }

  #check(result: number, text: string): void {
    if (result < 0) {
      throw blockError(fromErrno(-result).code, text)
    }
  }

  async run(): Promise<void> {
    const served = this.#libc.ioctlValueAsync(this.#fd, request.doIt, 0)
    // Somebody has to open the device for its partitions to be looked for.
    fs.open(this.#path, fs.constants.O_RDONLY, (error, fd) => {
      if (error === null) {
        fs.close(fd)
      }
    })
    const result = await served
    this.#set(request.clearQueue, 0)
    this.#set(request.clearSocket, 0)
    // EPIPE is how it ends when somebody has disconnected the device.
    if (result < 0 && result !== -Errno.EPIPE) {
      throw fromErrno(-result)
    }
  }

  disconnect(): void {
    this.#set(request.clearQueue, 0)
    this.#set(request.disconnect, 0)
    this.#set(request.clearSocket, 0)
  }

  close(): void {
    if (this.#open) {
      this.#open = false
      fs.closeSync(this.#fd)
    }
  }
}
