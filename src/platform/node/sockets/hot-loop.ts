import type { Libc } from '../libc.js'
import type { RawSocket } from './raw-socket.js'

const POLLIN = 1
const POLLOUT = 4
/** Bytes of a `struct pollfd`. */
const pollBytes = 8

/** How long one sleep on the hot sockets lasts when nothing else is to be waited for, nanoseconds. */
const sleepNanoseconds = 100_000
/** Empty polls in a row after which sockets are given back to libuv. */
const coolAfter = 10
/** Polls without sleeping are over much sooner. */
const coolAfterBusy = 100
/** How long a send waits for room in the kernel's buffer, nanoseconds. */
const writableNanoseconds = 1_000_000
/** How long sockets are served before other events have their turn, milliseconds. */
const turnMilliseconds = 2

/**
 * Polls the sockets on which something is going on, once or several times in each turn of the event
 * loop. While nothing arrives it may sleep on them for a tenth of a millisecond: only in a program that
 * has nothing else to do (`mayWait`), and only while no user of a socket waits for something else.
 */
export class HotLoop {
  readonly #libc: Libc
  readonly #mayWait: boolean
  readonly #sockets: RawSocket[] = []
  #polls = new Uint8Array(0)
  #pollWords = new Int32Array(0)
  #stale = true
  #scheduled = false
  #empty = 0
  readonly #zero = new Uint8Array(16)
  readonly #sleep: Uint8Array
  readonly #patience: Uint8Array
  readonly #single = new Uint8Array(pollBytes)
  readonly #singleWords = new Int32Array(this.#single.buffer)

  constructor(libc: Libc, mayWait: boolean) {
    this.#libc = libc
    this.#mayWait = mayWait
    this.#sleep = timespec(sleepNanoseconds)
    this.#patience = timespec(writableNanoseconds)
  }

  add(socket: RawSocket): void {
    this.#sockets.push(socket)
    this.#stale = true
    this.#empty = 0
    if (!this.#scheduled) {
      this.#scheduled = true
      setImmediate(this.#turn)
    }
  }

  remove(socket: RawSocket): void {
    const index = this.#sockets.indexOf(socket)
    if (index >= 0) {
      this.#sockets.splice(index, 1)
      this.#stale = true
    }
  }

  /** Waits a little for room to send; false: there is none, or this program may not wait. */
  waitWritable(fd: number): boolean {
    if (!this.#mayWait) {
      return false
    }
    this.#singleWords[0] = fd
    this.#singleWords[1] = POLLOUT
    return this.#libc.ppoll(this.#single, 1, this.#patience) > 0
  }

  readonly #turn = (): void => {
    const start = performance.now()
    do {
      const ready = this.#poll()
      if (ready <= 0) {
        this.#empty++
        if (this.#empty >= (this.#mayWait ? coolAfter : coolAfterBusy)) {
          this.#cool()
        }
        break
      }
      this.#empty = 0
      this.#serve(ready)
    } while (this.#sockets.length > 0 && performance.now() - start < turnMilliseconds && !this.#isEngaged())
    if (this.#sockets.length > 0) {
      // Promises that the requests made are settled between two turns.
      setImmediate(this.#turn)
    } else {
      this.#scheduled = false
    }
  }

  #isEngaged(): boolean {
    for (const socket of this.#sockets) {
      if (socket.engaged) {
        return true
      }
    }
    return false
  }

  #poll(): number {
    const count = this.#sockets.length
    if (this.#stale) {
      this.#stale = false
      if (this.#polls.length < count * pollBytes) {
        this.#polls = new Uint8Array(count * 2 * pollBytes)
        this.#pollWords = new Int32Array(this.#polls.buffer)
      }
      for (let i = 0; i < count; i++) {
        this.#pollWords[2 * i] = (this.#sockets[i] as RawSocket).fd
        this.#pollWords[2 * i + 1] = POLLIN
      }
    }
    const timeout = this.#mayWait && !this.#isEngaged() ? this.#sleep : this.#zero
    return this.#libc.ppoll(this.#polls, count, timeout)
  }

  #serve(ready: number): void {
    if (this.#sockets.length === 1) {
      this.#sockets[0]?.ready()
      return
    }
    let left = ready
    const served: RawSocket[] = []
    for (let i = 0; left > 0 && i < this.#sockets.length; i++) {
      // The upper half of the second word is what has happened.
      if ((this.#pollWords[2 * i + 1] as number) >>> 16 !== 0) {
        left--
        served.push(this.#sockets[i] as RawSocket)
      }
    }
    for (const socket of served) {
      socket.ready()
    }
  }

  #cool(): void {
    this.#empty = 0
    for (const socket of [...this.#sockets]) {
      socket.cool()
    }
  }
}

function timespec(nanoseconds: number): Uint8Array {
  const words = new BigInt64Array([0n, BigInt(nanoseconds)])
  return new Uint8Array(words.buffer)
}
