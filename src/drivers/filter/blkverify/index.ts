import { blockError } from '../../../errors/index.js'
import type { BlockDriver } from '../../../graph/index.js'
import { OptionDict } from '../../../options/index.js'
import { blkverifyOptions } from './options.js'

/** Names look like `blkverify:path/of/raw:path/of/image`. */
function parseFilename(filename: string): OptionDict {
  const options = new OptionDict()
  const prefix = 'blkverify:'
  if (!filename.startsWith(prefix)) {
    options.set('x-image', filename)
    return options
  }
  const rest = filename.slice(prefix.length)
  const colon = rest.indexOf(':')
  if (colon < 0) {
    throw blockError('EINVAL', 'blkverify requires raw copy and original image path')
  }
  options.set('x-raw', rest.slice(0, colon))
  options.set('x-image', rest.slice(colon + 1))
  return options
}

/** Does everything on an image and on a raw copy of it, and stops the program where they differ. */
export const blkverify: BlockDriver = {
  name: 'blkverify',
  kind: 'filter',
  protocolLevel: true,
  composite: true,
  protocolName: 'blkverify',
  options: blkverifyOptions,
  parseFilename,
  load: () => import('./module.js'),
}
