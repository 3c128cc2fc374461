import { defineOptions } from '../../../options/index.js'

/** Options besides `server.*`, which is an address of its own. */
export const nbdOptions = defineOptions({
  host: { type: 'string', help: 'TCP host to connect to' },
  port: { type: 'string', help: 'TCP port to connect to' },
  path: { type: 'string', help: 'Unix socket path to connect to' },
  export: { type: 'string', help: 'Name of the NBD export to open' },
  'tls-creds': { type: 'string', help: 'ID of the TLS credentials to use' },
  'tls-hostname': { type: 'string', help: 'Override hostname for validating TLS x509 certificate' },
  'x-dirty-bitmap': {
    type: 'string',
    help: 'experimental: expose named dirty bitmap in place of block status',
  },
  'reconnect-delay': {
    type: 'number',
    help: 'seconds that requests wait for the connection to come back before they fail',
    default: 0,
  },
  'open-timeout': {
    type: 'number',
    help: 'seconds that opening tries to connect again',
    default: 0,
  },
})
