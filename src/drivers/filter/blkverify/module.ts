import { type OpenContext, Role } from '../../../graph/index.js'
import { takeOptions } from '../../../options/index.js'
import { blkverifyOptions } from './options.js'
import { BlkverifyState } from './state.js'

export async function open(context: OpenContext): Promise<BlkverifyState> {
  const given = takeOptions(context.options, blkverifyOptions)
  const raw = await context.openNamedChild('raw', Role.filtered | Role.primary, given['x-raw'])
  const test = await context.openNamedChild('test', Role.data, given['x-image'])
  return new BlkverifyState(context.node, raw, test)
}
