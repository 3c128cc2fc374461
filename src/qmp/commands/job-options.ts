import { blockError } from '../../errors/index.js'
import { type BlockNode, deviceName } from '../../graph/index.js'

/** Arguments that every job on nodes takes. */
export interface CommonArguments {
  readonly speed?: number | undefined
  readonly 'auto-finalize'?: boolean | undefined
  readonly 'auto-dismiss'?: boolean | undefined
  readonly 'filter-node-name'?: string | undefined
}

/** What all jobs on nodes can be told, in the words of the library. */
export function commonOptions(args: CommonArguments) {
  return {
    speed: args.speed,
    autoFinalize: args['auto-finalize'],
    autoDismiss: args['auto-dismiss'],
    filterNodeName: args['filter-node-name'],
  }
}

/** The id of a job on `node`: the one given, or the name of the device on the node. @throws BlockError if that has none */
export function jobIdFor(node: BlockNode, given: string | undefined): string {
  const id = given ?? deviceName(node)
  if (id === '') {
    throw blockError('EINVAL', "Invalid job ID ''")
  }
  return id
}
