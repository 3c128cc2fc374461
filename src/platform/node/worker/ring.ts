/**
 * The memory that the block layer and one of its threads share: a ring of commands, executed in
 * order, and an arena for their data. The block layer writes commands and counts them in `submitted`;
 * the thread writes results and counts them in `completed`. Both counts wrap around at 2^32. A thread
 * without commands says so in `asleep` and sleeps on `submitted`. The block layer is sent a message, but only if it has said
 * in `waiting` that it will look at no more results by itself.
 */

/** Commands in flight at most; a power of two. */
export const ringSlots = 64
/** Largest contiguous piece of the arena that is handed out at once, bytes. */
export const arenaChunk = 1 << 16
export const arenaBytes = ringSlots * arenaChunk

export const Command = {
  read: 0,
  write: 1,
  sync: 2,
  truncate: 3,
  /** `extra`: mode of fallocate(2). */
  fallocate: 4,
  /** `extra`: request of ioctl(2). */
  deviceRange: 5,
  /** `extra`: descriptor to copy to, `extraOffset`: where. */
  copyRange: 6,
} as const

/** Result of a command that this file, range or platform cannot do. Others: >= 0, or a negative errno. */
export const notPossible = Number.NaN

export interface RingMemory {
  readonly control: SharedArrayBuffer
  readonly data: SharedArrayBuffer
}

const Field = { command: 0, fd: 1, offset: 2, length: 3, place: 4, extra: 5, extraOffset: 6, result: 7 }
const fieldsPerSlot = 8
/** Counters come first; bytes. */
const headBytes = 64

/** What a slot of the ring holds. Offsets and lengths are bytes, `place` is one in the arena. */
export interface RingCommand {
  readonly command: number
  readonly fd: number
  readonly offset: number
  readonly length: number
  readonly place: number
  readonly extra: number
  readonly extraOffset: number
}

/** One side's view of the shared memory. */
export class Ring {
  static readonly submitted = 0
  static readonly completed = 1
  static readonly waiting = 2
  static readonly asleep = 3
  readonly memory: RingMemory
  readonly counters: Int32Array
  readonly data: Uint8Array
  readonly #fields: Float64Array

  /** @param spare bytes that the arena has beyond {@link arenaBytes}, for alignment */
  static create(spare: number): Ring {
    return new Ring({
      control: new SharedArrayBuffer(headBytes + ringSlots * fieldsPerSlot * 8),
      data: new SharedArrayBuffer(arenaBytes + spare),
    })
  }

  constructor(memory: RingMemory) {
    this.memory = memory
    this.counters = new Int32Array(memory.control, 0, 4)
    this.#fields = new Float64Array(memory.control, headBytes)
    this.data = new Uint8Array(memory.data)
  }

  #at(index: number, field: number): number {
    return (index & (ringSlots - 1)) * fieldsPerSlot + field
  }

  #get(index: number, field: number): number {
    return this.#fields[this.#at(index, field)] as number
  }

  put(index: number, command: Omit<RingCommand, 'place'>, place: number): void {
    const fields = this.#fields
    fields[this.#at(index, Field.command)] = command.command
    fields[this.#at(index, Field.fd)] = command.fd
    fields[this.#at(index, Field.offset)] = command.offset
    fields[this.#at(index, Field.length)] = command.length
    fields[this.#at(index, Field.place)] = place
    fields[this.#at(index, Field.extra)] = command.extra
    fields[this.#at(index, Field.extraOffset)] = command.extraOffset
  }

  take(index: number): RingCommand {
    return {
      command: this.#get(index, Field.command),
      fd: this.#get(index, Field.fd),
      offset: this.#get(index, Field.offset),
      length: this.#get(index, Field.length),
      place: this.#get(index, Field.place),
      extra: this.#get(index, Field.extra),
      extraOffset: this.#get(index, Field.extraOffset),
    }
  }

  setResult(index: number, result: number): void {
    this.#fields[this.#at(index, Field.result)] = result
  }

  result(index: number): number {
    return this.#get(index, Field.result)
  }
}
