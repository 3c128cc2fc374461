import type { BlockDriver } from '../../../graph/index.js'
import { OptionDict } from '../../../options/index.js'
import { httpOptions } from './options.js'

function webDriver(name: 'http' | 'https'): BlockDriver {
  return {
    name,
    kind: 'protocol',
    protocolName: name,
    options: httpOptions,
    strongOptions: [
      'url',
      'sslverify',
      'cookie',
      'cookie-secret',
      'username',
      'password-secret',
      'proxy-username',
      'proxy-password-secret',
    ],
    parseFilename(filename) {
      const options = new OptionDict()
      options.set('url', filename)
      return options
    },
    load: async () => (await import('./module.js')).webModule(name),
  }
}

/** Images on web servers, read by ranges. */
export const http: BlockDriver = webDriver('http')
export const https: BlockDriver = webDriver('https')
