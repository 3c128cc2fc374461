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
/**
 * How long sockets are polled without sleeping, milliseconds, when they were found ready soon after the
 * last time: waking up costs as much. Only while that keeps being worth it.
 */
const spinMilliseconds = 0.06
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
  /** Whether sleeping was over so soon that polling on would have caught it. */
  #spins = false

  constructor(libc: Libc, mayWait: boolean) {
    this.#libc = libc
    this.#mayWait = mayWait
    this.#sleep = timespec(sleepNanoseconds)
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

  /** A socket looks for other events. */
  changed(): void {
    this.#stale = true
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
        this.#pollWords[2 * i + 1] = (this.#sockets[i] as RawSocket).events
      }
    }
    if (!this.#mayWait || this.#isEngaged()) {
      return this.#libc.ppoll(this.#polls, count, this.#zero)
    }
    if (this.#spins && count === 1) {
      const until = performance.now() + spinMilliseconds
      do {
        const ready = this.#libc.ppoll(this.#polls, count, this.#zero)
        if (ready !== 0) {
          return ready
        }
      } while (performance.now() < until)
    }
    const ready = this.#libc.ppoll(this.#polls, count, this.#sleep)
    this.#spins = ready > 0
    return ready
  }

  #serve(ready: number): void {
    const sockets = this.#sockets
    if (sockets.length === 1) {
      serveOne(sockets[0] as RawSocket, this.#pollWords[1] as number)
      return
    }
    const served: [RawSocket, number][] = []
    for (let i = 0; served.length < ready && i < sockets.length; i++) {
      const word = this.#pollWords[2 * i + 1] as number
      if (word >>> 16 !== 0) {
        served.push([sockets[i] as RawSocket, word])
      }
    }
    for (const [socket, word] of served) {
      serveOne(socket, word)
    }
  }

  #cool(): void {
    this.#empty = 0
    for (const socket of [...this.#sockets]) {
      socket.cool()
    }
  }
}

/** @param word second word of a `struct pollfd`: what was looked for, and in the upper half what has happened */
function serveOne(socket: RawSocket, word: number): void {
  const happened = word >>> 16
  const isReading = (word & POLLIN) !== 0
  // Who only sends learns by failing that the other side has hung up.
  if ((happened & POLLOUT) !== 0 || (happened !== 0 && !isReading)) {
    socket.writable()
  }
  if (isReading && (happened & ~POLLOUT) !== 0) {
    socket.ready()
  }
}

function timespec(nanoseconds: number): Uint8Array {
  const words = new BigInt64Array([0n, BigInt(nanoseconds)])
  return new Uint8Array(words.buffer)
}
