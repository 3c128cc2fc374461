/** Where there is one: a timer would wait a millisecond. */
const nextTurn: (resume: () => void) => void =
  typeof setImmediate === 'function' ? setImmediate : (resume) => setTimeout(resume, 0)

/** Lets long synchronous loops give the event loop a turn about every 10 ms. */
export class TimeSlice {
  readonly #length: number
  #start: number
  #end: number

  /** @param length milliseconds a slice lasts */
  constructor(length = 10) {
    this.#length = length
    this.#start = Date.now()
    this.#end = this.#start + length
  }

  get expired(): boolean {
    const now = Date.now()
    // A clock that was set back ends the slice, too.
    return now >= this.#end || now < this.#start
  }

  /** Gives other work a turn and starts a new slice. */
  async yield(): Promise<void> {
    await new Promise<void>((resolve) => {
      nextTurn(resolve)
    })
    this.#start = Date.now()
    this.#end = this.#start + this.#length
  }

  /** Yields only when the slice is used up. */
  breathe(): Promise<void> | undefined {
    return this.expired ? this.yield() : undefined
  }
}
