import type { BlockDriver } from '../../../graph/index.js'
import { OptionDict } from '../../../options/index.js'
import { ovaOptions } from './options.js'

/** One disk of an OVA package, as the file it is there: `ova:machine.ova` is probed by the disk's contents. */
export const ova: BlockDriver = {
  name: 'ova',
  kind: 'filter',
  protocolLevel: true,
  protocolName: 'ova',
  options: ovaOptions,
  strongOptions: ['disk'],
  parseFilename(filename) {
    const options = new OptionDict()
    const prefix = 'ova:'
    options.set('x-file', filename.startsWith(prefix) ? filename.slice(prefix.length) : filename)
    return options
  },
  load: () => import('./module.js'),
}
