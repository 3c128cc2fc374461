import { type BlockLayer, createIoThread } from '../graph/index.js'
import type { ObjectRequest } from '../options/index.js'
import type { Maybe } from '../sched/index.js'
import { addAuthorization } from './authz/index.js'
import { addSecret } from './crypto/index.js'
import { addTlsCredentials } from './tls/index.js'

/** Makes the object that was asked for in the layer. @throws BlockError with QEMU's text; there is none then */
export function defineObject(
  layer: BlockLayer,
  request: Exclude<ObjectRequest, { kind: 'help' }>,
): Maybe<void> {
  if (request.kind === 'iothread') {
    return createIoThread(layer, request.ioThread.id, request.ioThread.values).then(() => undefined)
  }
  if (request.kind === 'authz') {
    addAuthorization(layer, request.authorization)
  } else if (request.kind === 'secret') {
    addSecret(layer, request.secret)
  } else if (request.kind === 'tls-creds') {
    addTlsCredentials(layer, request.credentials)
  } else {
    layer.throttleGroups.add(request.throttleGroup.id, request.throttleGroup.values)
  }
}
