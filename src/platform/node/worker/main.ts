// What a thread runs: it takes commands from the shared ring for as long as it lives and sleeps when
// there are none. Nothing else happens on it, so that its system calls may block.
import fs from 'node:fs'
import { basename } from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import { isBlockError } from '../../../errors/index.js'
import { fromNode } from '../errors.js'
import { copyRange, deviceRange, fallocate } from '../space.js'
import { readSync, writeSync } from '../transfer.js'
import { Command, notPossible, Ring, type RingCommand, type RingMemory } from './ring.js'

function possible(result: unknown): number {
  if (typeof result === 'number') {
    return result
  }
  return result === true ? 0 : notPossible
}

function execute(ring: Ring, of: RingCommand): number {
  switch (of.command) {
    case Command.read:
      readSync(of.fd, of.offset, of.length, ring.data, of.place, of.extra)
      return 0
    case Command.write:
      writeSync(of.fd, of.offset, of.length, ring.data, of.place)
      return 0
    case Command.sync:
      fs.fdatasyncSync(of.fd)
      return 0
    case Command.truncate:
      fs.ftruncateSync(of.fd, of.length)
      return 0
    case Command.fallocate:
      return possible(fallocate(of.fd, of.extra, of.offset, of.length, undefined))
    case Command.deviceRange:
      return possible(deviceRange(of.fd, of.extra, of.offset, of.length, true))
    case Command.copyRange:
      return possible(copyRange(of.fd, of.offset, of.extra, of.extraOffset, of.length, true))
    default:
      throw new Error(`unknown command ${of.command}`)
  }
}

function run(ring: Ring, of: RingCommand): number {
  try {
    return execute(ring, of)
  } catch (error) {
    return isBlockError(error) ? error.errno : fromNode(error).errno
  }
}

/** The kernel's number of this thread; undefined where it cannot be told. */
function threadNumber(): number | undefined {
  try {
    return Number(basename(fs.readlinkSync('/proc/thread-self')))
  } catch {
    return undefined
  }
}

/** Looks for a command this often before it goes to sleep, some 20 µs: falling asleep and being woken takes longer. */
const looks = 2000

/** Returns once there is a command behind the first `done`. */
function awaitCommand({ counters }: Ring, done: number): void {
  for (let look = 0; look < looks; look++) {
    if (Atomics.load(counters, Ring.submitted) !== done) {
      return
    }
  }
  Atomics.store(counters, Ring.asleep, 1)
  while (Atomics.load(counters, Ring.submitted) === done) {
    Atomics.wait(counters, Ring.submitted, done)
  }
  Atomics.store(counters, Ring.asleep, 0)
}

const ring = new Ring(workerData as RingMemory)
parentPort?.postMessage(threadNumber())
for (let done = 0; ; ) {
  awaitCommand(ring, done)
  ring.setResult(done, run(ring, ring.take(done)))
  done = (done + 1) | 0
  Atomics.store(ring.counters, Ring.completed, done)
  if (Atomics.exchange(ring.counters, Ring.waiting, 0) === 1) {
    parentPort?.postMessage(null)
  }
}
