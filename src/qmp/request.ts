import { qdictOrder } from '../bytes/index.js'
import { blockError } from '../errors/index.js'
import { isWireObject, type WireObject, type WireValue } from './json-number.js'

/** What a client asks for. */
export interface QmpRequest {
  readonly command: string
  readonly arguments: WireObject
  /** To be executed ahead of what waits. */
  readonly oob: boolean
}

/**
 * Checks the form of a request.
 *
 * @param allowOob the client has asked for out-of-band execution
 * @throws BlockError with QEMU's text
 */
export function parseRequest(value: WireValue, allowOob: boolean): QmpRequest {
  const fail = (text: string): never => {
    throw blockError('EINVAL', text)
  }
  if (!isWireObject(value)) {
    return fail('QMP input must be a JSON object')
  }
  let command: { readonly key: string; readonly name: string } | undefined
  let arguments_: WireObject = {}
  for (const key of qdictOrder(Object.keys(value))) {
    const member = value[key] as WireValue
    if (key === 'execute' || (key === 'exec-oob' && allowOob)) {
      if (command !== undefined) {
        return fail(`QMP input member '${key}' clashes with '${command.key}'`)
      }
      if (typeof member !== 'string') {
        return fail(`QMP input member '${key}' must be a string`)
      }
      command = { key, name: member }
    } else if (key === 'arguments') {
      if (!isWireObject(member)) {
        return fail("QMP input member 'arguments' must be an object")
      }
      arguments_ = member
    } else if (key !== 'id') {
      return fail(`QMP input member '${key}' is unexpected`)
    }
  }
  return command === undefined
    ? fail("QMP input lacks member 'execute'")
    : { command: command.name, arguments: arguments_, oob: command.key === 'exec-oob' }
}
