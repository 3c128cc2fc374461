import { defineOptions } from '../../../options/index.js'

export const httpOptions = defineOptions({
  url: { type: 'string', help: 'URL to open' },
  readahead: { type: 'size', help: 'Readahead size', default: 256 * 1024 },
  sslverify: { type: 'bool', help: 'Verify SSL certificate', default: true },
  timeout: { type: 'number', help: 'Curl timeout', default: 5 },
  cookie: { type: 'string', help: 'Pass the cookie or list of cookies with each request' },
  'cookie-secret': { type: 'string', help: 'ID of secret used as cookie passed with each request' },
  username: { type: 'string', help: 'Username for HTTP auth' },
  'password-secret': { type: 'string', help: 'ID of secret used as password for HTTP auth' },
  'proxy-username': { type: 'string', help: 'Username for HTTP proxy auth' },
  'proxy-password-secret': {
    type: 'string',
    help: 'ID of secret used as password for HTTP proxy auth',
  },
})
