/** How far a job is: units are bytes for block jobs. `len` is an estimate and may grow. */
export interface JobProgressInfo {
  readonly offset: number
  readonly len: number
}

/** Counts progress and shows it to anyone who iterates; slow readers see the newest figures only. */
export class JobProgress implements AsyncIterable<JobProgressInfo> {
  #offset = 0
  #len = 0
  #ended = false
  #version = 0
  #waiting: (() => void)[] = []

  get offset(): number {
    return this.#offset
  }

  get len(): number {
    return this.#len
  }

  /** `done` more is done. */
  update(done: number): void {
    this.#offset += done
    this.#changed()
  }

  /** So much is left to do. */
  setRemaining(remaining: number): void {
    this.#len = this.#offset + remaining
    this.#changed()
  }

  /** There is more to do than was known; a negative `delta`: less. */
  increaseRemaining(delta: number): void {
    this.#len += delta
    this.#changed()
  }

  /** Ends all iterations after the present figures. */
  end(): void {
    this.#ended = true
    this.#changed()
  }

  #changed(): void {
    this.#version++
    if (this.#waiting.length !== 0) {
      for (const resume of this.#waiting.splice(0)) {
        resume()
      }
    }
  }

  /** The present figures, then each change until the job is over. */
  async *[Symbol.asyncIterator](): AsyncIterator<JobProgressInfo> {
    let seen = -1
    for (;;) {
      while (this.#version === seen && !this.#ended) {
        await new Promise<void>((resolve) => {
          this.#waiting.push(resolve)
        })
      }
      if (this.#version !== seen) {
        seen = this.#version
        yield { offset: this.#offset, len: this.#len }
      }
      if (this.#ended && this.#version === seen) {
        return
      }
    }
  }
}
