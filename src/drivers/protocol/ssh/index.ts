import type { BlockDriver } from '../../../graph/index.js'
import { sshCreateOptions, sshOptions } from './options.js'
import { parseSshName } from './place.js'

/** Files of other machines, over SSH's file transfer protocol. */
export const ssh: BlockDriver = {
  name: 'ssh',
  kind: 'protocol',
  protocolName: 'ssh',
  options: sshOptions,
  strongOptions: ['host', 'port', 'path', 'user', 'host_key_check', 'server.'],
  createOptions: sshCreateOptions,
  parseFilename: parseSshName,
  load: async () => (await import('./module.js')).sshModule,
}
