import { isBlockError } from '../../errors/index.js'
import type { HostFile } from '../../host/index.js'
import type { Wait } from '../../sched/index.js'
import type { CharDevice, CharFrontend } from './device.js'

/** A device at whose other end nobody says anything; what is written is lost. */
export class NullChar implements CharDevice {
  readonly label: string
  readonly filename: string = 'null'
  readonly isOpen: boolean = true
  readonly backlog = 0
  frontend: CharFrontend | undefined = undefined
  reading = true

  constructor(label: string) {
    this.label = label
  }

  attach(frontend: CharFrontend): void {
    this.frontend = frontend
    frontend.opened()
  }

  write(_bytes: Uint8Array): Wait {
    return undefined
  }

  drop(): void {
    // There is nobody.
  }

  close(): Promise<void> {
    return Promise.resolve()
  }
}

/** Standard input and output of the process. */
export interface StdioStreams {
  readonly input: AsyncIterable<Uint8Array>
  write(bytes: Uint8Array): Wait
}

/** The process's own standard input and output. */
export class StdioChar implements CharDevice {
  readonly label: string
  readonly filename = 'stdio'
  readonly isOpen = true
  readonly backlog = 0
  frontend: CharFrontend | undefined = undefined
  readonly #streams: StdioStreams
  #reading = true
  #resume: (() => void) | undefined = undefined
  #closed = false

  constructor(label: string, streams: StdioStreams) {
    this.label = label
    this.#streams = streams
  }

  attach(frontend: CharFrontend): void {
    this.frontend = frontend
    frontend.opened()
    void this.#pump()
  }

  get reading(): boolean {
    return this.#reading
  }

  set reading(wanted: boolean) {
    this.#reading = wanted
    if (wanted) {
      this.#resume?.()
    }
  }

  async #pump(): Promise<void> {
    try {
      for await (const bytes of this.#streams.input) {
        while (!this.#reading && !this.#closed) {
          await new Promise<void>((resolve) => {
            this.#resume = resolve
          })
        }
        if (this.#closed) {
          return
        }
        this.frontend?.data(bytes, 0, bytes.length)
      }
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
    }
    // At the end of the input the device stays: there is output still.
  }

  write(bytes: Uint8Array): Wait {
    return this.#streams.write(bytes)
  }

  drop(): void {
    // The process's own streams stay.
  }

  close(): Promise<void> {
    this.#closed = true
    this.#resume?.()
    return Promise.resolve()
  }
}

/** Appends to a file; nothing comes from it. */
export class FileChar extends NullChar {
  override readonly filename: string = 'file'
  readonly #file: HostFile
  #end: number
  #last: Promise<void> = Promise.resolve()

  constructor(label: string, file: HostFile, end: number) {
    super(label)
    this.#file = file
    this.#end = end
  }

  override write(bytes: Uint8Array): Wait {
    const at = this.#end
    const copy = bytes.slice()
    this.#end += copy.length
    this.#last = this.#last.then(async () => {
      try {
        await this.#file.write(at, copy.length, copy, 0)
      } catch (error) {
        if (!isBlockError(error)) {
          throw error
        }
        // There is nobody to tell.
      }
    })
    return this.#last
  }

  override async close(): Promise<void> {
    await this.#last
    await this.#file.close()
  }
}

/** Keeps the last bytes that were written, for `ringbuf-read`. */
export class RingBufferChar extends NullChar {
  override readonly filename: string = 'ringbuf'
  readonly #buffer: Uint8Array
  #produced = 0
  #consumed = 0

  /** @param size a power of two, bytes */
  constructor(label: string, size: number) {
    super(label)
    this.#buffer = new Uint8Array(size)
  }

  override write(bytes: Uint8Array): Wait {
    const size = this.#buffer.length
    for (const byte of bytes) {
      this.#buffer[this.#produced++ % size] = byte
    }
    this.#consumed = Math.max(this.#consumed, this.#produced - size)
    return undefined
  }

  /** Takes the oldest bytes, at most `bytes`. */
  take(bytes: number): Uint8Array {
    const count = Math.min(bytes, this.#produced - this.#consumed)
    const result = new Uint8Array(count)
    for (let i = 0; i < count; i++) {
      result[i] = this.#buffer[this.#consumed++ % this.#buffer.length] as number
    }
    return result
  }
}
