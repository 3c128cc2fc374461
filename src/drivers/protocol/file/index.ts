import type { BlockDriver } from '../../../graph/index.js'
import { hostFileOptions, stripProtocolPrefix } from '../../../hostfile/options.js'
import { OptionDict } from '../../../options/index.js'
import { fileCreateOptions } from './options.js'

/** Regular files of the host. */
export const file: BlockDriver = {
  name: 'file',
  kind: 'protocol',
  protocolName: 'file',
  needsFilename: true,
  options: hostFileOptions,
  mutableOptions: ['x-check-cache-dropped'],
  createOptions: fileCreateOptions,
  parseFilename: (filename) => new OptionDict([['filename', stripProtocolPrefix(filename, 'file:')]]),
  load: () => import('./module.js'),
}
