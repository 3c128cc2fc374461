import type { OptionTree } from '../options/index.js'

/** QAPI events of the block layer, with `data` as QAPI spells it. */
export interface BlockEvent {
  readonly event: string
  readonly data: OptionTree
}

/** Tells listeners what happens in a layer. A listener that throws does not stop the others. */
export class BlockEvents {
  readonly #listeners = new Set<(event: BlockEvent) => void>()

  /** Calls `listener` for each event until the result is called. */
  on(listener: (event: BlockEvent) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  emit(event: string, data: BlockEvent['data'] = {}): void {
    for (const listener of [...this.#listeners]) {
      try {
        listener({ event, data })
      } catch (error) {
        // The block layer must not fail because of an observer; the observer hears of it later.
        queueMicrotask(() => {
          throw error
        })
      }
    }
  }
}
