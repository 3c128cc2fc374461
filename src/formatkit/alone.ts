import type { BlockNode } from '../graph/index.js'
import type { Mutex } from '../sched/index.js'

/** Runs what may move parts of an image while no request of the guest is in flight and its metadata mutex is held. */
export async function runAlone<T>(node: BlockNode, mutex: Mutex, run: () => Promise<T>): Promise<T> {
  const { requests } = node
  const all = requests.begin('truncate', 0, Math.max(node.length, 1))
  try {
    requests.makeSerialising(all, 1)
    const conflict = requests.waitConflicts(all)
    if (conflict !== undefined) {
      await conflict
    }
    return await mutex.run(run)
  } finally {
    requests.end(all)
  }
}
