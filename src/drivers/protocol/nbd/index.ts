import type { BlockDriver } from '../../../graph/index.js'
import { parseNbdName } from './names.js'
import { nbdOptions } from './options.js'

function nbdDriver(protocolName: string): BlockDriver {
  return {
    name: 'nbd',
    kind: 'protocol',
    protocolName,
    options: nbdOptions,
    strongOptions: ['path', 'host', 'port', 'export', 'tls-creds', 'tls-hostname', 'server.'],
    parseFilename: parseNbdName,
    load: async () => (await import('./module.js')).nbdModule,
  }
}

/** Exports of NBD servers. */
export const nbd: BlockDriver = nbdDriver('nbd')
/** The same under its other URL schemes. */
export const nbdTcp: BlockDriver = nbdDriver('nbd+tcp')
export const nbdUnix: BlockDriver = nbdDriver('nbd+unix')
