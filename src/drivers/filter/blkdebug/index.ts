import { blockError } from '../../../errors/index.js'
import type { BlockDriver } from '../../../graph/index.js'
import { OptionDict } from '../../../options/index.js'
import { blkdebugOptions } from './options.js'

/** Names look like `blkdebug:path/of/config:path/of/image`; the config may be empty. */
function parseFilename(filename: string): OptionDict {
  const options = new OptionDict()
  const prefix = 'blkdebug:'
  if (!filename.startsWith(prefix)) {
    options.set('x-image', filename)
    return options
  }
  const rest = filename.slice(prefix.length)
  const colon = rest.indexOf(':')
  if (colon < 0) {
    throw blockError('EINVAL', 'blkdebug requires both config file and image path')
  }
  if (colon > 0) {
    options.set('config', rest.slice(0, colon))
  }
  options.set('x-image', rest.slice(colon + 1))
  return options
}

/** Makes requests to the image below fail, stop or keep to limits, as rules say: for tests of drivers. */
export const blkdebug: BlockDriver = {
  name: 'blkdebug',
  kind: 'filter',
  protocolLevel: true,
  protocolName: 'blkdebug',
  options: blkdebugOptions,
  strongOptions: [
    'config',
    'inject-error.',
    'set-state.',
    'align',
    'max-transfer',
    'opt-write-zero',
    'max-write-zero',
    'opt-discard',
    'max-discard',
  ],
  parseFilename,
  load: () => import('./module.js'),
}
