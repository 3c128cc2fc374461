import { type BlockError, blockError } from '../errors/index.js'
import { Perm, permNames } from '../graph/index.js'
import type { HostFile } from '../host/index.js'

/** Byte `permBase + i` is locked by whoever holds permission bit `i`. */
const permBase = 100
/** Byte `unsharedBase + i` is locked by whoever does not let others hold permission bit `i`. */
const unsharedBase = 200
const permBits = [0, 1, 2, 3]

function permName(bit: number): string {
  return permNames.find(([mask]) => mask === 1 << bit)?.[1] ?? ''
}

/**
 * Tells other processes, QEMU's among them, what an image is used for: one byte of the file is locked
 * for each permission held and for each permission not shared. All locks are shared ones; a conflict
 * is found by asking whether an exclusive lock on the opposite byte would be possible.
 */
export class PermissionLocks {
  #file: HostFile
  /** Shown in the hint of a conflict. */
  readonly #filename: string
  #perm = 0
  #shared: number = Perm.all
  /** Permission bits whose bytes are locked now. */
  #lockedPerm = 0
  #lockedUnshared = 0

  constructor(file: HostFile, filename: string) {
    this.#file = file
    this.#filename = filename
  }

  /**
   * Locks what the new permissions need on top of the current ones.
   * @throws BlockError EAGAIN if someone else's locks conflict; the locks are as before then.
   */
  prepare(perm: number, shared: number): void {
    if ((this.#perm | perm) === this.#perm && (this.#shared & shared) === this.#shared) {
      return
    }
    try {
      this.#lock(this.#perm | perm, ~this.#shared | ~shared)
      this.#check(perm, shared)
    } catch (error) {
      this.abort()
      throw error
    }
  }

  /** Keeps exactly what the new permissions need. */
  commit(perm: number, shared: number): void {
    this.#perm = perm
    this.#shared = shared
    this.abort()
  }

  /** Gives back what {@link prepare} took. */
  abort(): void {
    this.#unlock(this.#perm, ~this.#shared)
  }

  /** Takes the locks held now on `file` too: it is about to replace the one locked so far. */
  copyTo(file: HostFile): void {
    for (const bit of permBits) {
      const mask = 1 << bit
      if ((this.#lockedPerm & mask) !== 0) {
        lockByte(file, permBase + bit)
      }
      if ((this.#lockedUnshared & mask) !== 0) {
        lockByte(file, unsharedBase + bit)
      }
    }
  }

  /** `file` holds the locks from now on; those of the former one go with its descriptor. */
  moveTo(file: HostFile): void {
    this.#file = file
  }

  #lock(perm: number, unshared: number): void {
    for (const bit of permBits) {
      const mask = 1 << bit
      if ((perm & mask & ~this.#lockedPerm) !== 0) {
        lockByte(this.#file, permBase + bit)
        this.#lockedPerm |= mask
      }
    }
    for (const bit of permBits) {
      const mask = 1 << bit
      if ((unshared & mask & ~this.#lockedUnshared) !== 0) {
        lockByte(this.#file, unsharedBase + bit)
        this.#lockedUnshared |= mask
      }
    }
  }

  #unlock(perm: number, unshared: number): void {
    for (const bit of permBits) {
      const mask = 1 << bit
      if ((this.#lockedPerm & mask & ~perm) !== 0) {
        this.#file.setLock(permBase + bit, 1, 'none')
        this.#lockedPerm &= ~mask
      }
      if ((this.#lockedUnshared & mask & ~unshared) !== 0) {
        this.#file.setLock(unsharedBase + bit, 1, 'none')
        this.#lockedUnshared &= ~mask
      }
    }
  }

  #check(perm: number, shared: number): void {
    for (const bit of permBits) {
      const wanted = (perm & (1 << bit)) !== 0
      if (wanted && this.#file.lockConflicts(unsharedBase + bit, 1, 'exclusive')) {
        throw this.#conflict(`Failed to get "${permName(bit)}" lock`)
      }
    }
    for (const bit of permBits) {
      const unshared = (shared & (1 << bit)) === 0
      if (unshared && this.#file.lockConflicts(permBase + bit, 1, 'exclusive')) {
        throw this.#conflict(`Failed to get shared "${permName(bit)}" lock`)
      }
    }
  }

  #conflict(message: string): BlockError {
    return blockError('EAGAIN', message, {
      hint: `Is another process using the image [${this.#filename}]?`,
    })
  }
}

/** Only a foreign program's exclusive lock can stand in the way of a shared one. */
function lockByte(file: HostFile, byte: number): void {
  if (!file.setLock(byte, 1, 'shared')) {
    throw blockError('EAGAIN', `Failed to lock byte ${byte}`)
  }
}
