import { codeOf, errnoError } from '../../errors/index.js'
import type { IoNode } from '../../io/index.js'
import type { Wait } from '../../sched/index.js'
import type { LuksStorage } from './key-slots.js'

/**
 * A LUKS header on a node, from byte `base` on.
 *
 * Failures become QEMU's `Could not read encryption header` and `Could not write encryption header`.
 */
export function nodeStorage(node: IoNode, base: number): LuksStorage {
  const run = async (what: string, start: () => Wait): Promise<void> => {
    try {
      const wait = start()
      if (wait !== undefined) {
        await wait
      }
    } catch (error) {
      throw errnoError(codeOf(error), `Could not ${what} encryption header`, { cause: error })
    }
  }
  return {
    read: async (offset, bytes) => {
      const data = new Uint8Array(bytes)
      await run('read', () => node.read(base + offset, bytes, data, 0, 0))
      return data
    },
    write: (offset, data) => run('write', () => node.write(base + offset, data.length, data, 0, 0)),
    flush: () => run('write', () => node.flush()),
  }
}
