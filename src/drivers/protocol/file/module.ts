import type { OpenContext } from '../../../graph/index.js'
import { type HostFileState, openHostFile } from '../../../hostfile/index.js'

export { create } from './create.js'

export async function open(context: OpenContext): Promise<HostFileState> {
  return await openHostFile(context, 'file', false)
}
