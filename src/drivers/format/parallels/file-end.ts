import { codeOf } from '../../../errors/index.js'
import { type BlockChild, truncateNode } from '../../../graph/index.js'

/** Has the file end at `length` bytes, if it can: devices stay as they are. */
export async function truncateTo(file: BlockChild, length: number): Promise<void> {
  try {
    await truncateNode(file.node, length, { exact: false, preallocation: 'off', zero: true })
  } catch (error) {
    if (codeOf(error) !== 'ENOTSUP') {
      throw error
    }
  }
}
