import { defineOptions } from '../../../options/index.js'

/** Options besides `server.*` and `host-key-check.*`, which are structures of their own. */
export const sshOptions = defineOptions({
  host: { type: 'string', help: 'Host to connect to' },
  port: { type: 'string', help: 'Port to connect to' },
  host_key_check: { type: 'string', help: 'Defines how and what to check the host key against' },
  path: { type: 'string', help: 'path to the image on the remote host' },
  user: { type: 'string', help: 'user as which to connect' },
})

export const sshCreateOptions = defineOptions({
  size: { type: 'size', help: 'Virtual disk size' },
})
