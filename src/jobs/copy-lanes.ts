import type { CopyFault } from '../formatkit/filter/index.js'

/** Copies in flight, a limited number of them. The first fault is kept until it is taken. */
export class CopyLanes {
  readonly #limit: number
  #inFlight = 0
  #waiting: (() => void)[] = []
  #fault: CopyFault | undefined = undefined

  constructor(limit: number) {
    this.#limit = limit
  }

  get isIdle(): boolean {
    return this.#inFlight === 0
  }

  get isFull(): boolean {
    return this.#inFlight >= this.#limit
  }

  /** What went wrong since the last call. */
  takeFault(): CopyFault | undefined {
    const fault = this.#fault
    this.#fault = undefined
    return fault
  }

  /** Begins a copy, which does not throw. */
  start(request: () => Promise<CopyFault | undefined>): void {
    this.#inFlight++
    void this.#run(request)
  }

  async #run(request: () => Promise<CopyFault | undefined>): Promise<void> {
    const fault = await request()
    this.#inFlight--
    this.#fault ??= fault
    for (const resolve of this.#waiting.splice(0)) {
      resolve()
    }
  }

  /** Waits until one of those in flight has ended. */
  async oneFinished(): Promise<void> {
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve)
      })
    }
  }

  async allFinished(): Promise<void> {
    while (this.#inFlight > 0) {
      await this.oneFinished()
    }
  }
}
