import type { BlockDriver } from '../../../graph/index.js'
import { OptionDict } from '../../../options/index.js'
import { compressedOptions } from './options.js'

/**
 * A file that stands compressed with gzip, xz, bzip2 or zstd, read as what it holds. Any format may sit on
 * it: `compressed:disk.qcow2.xz` is probed by its contents.
 */
export const compressed: BlockDriver = {
  name: 'compressed',
  kind: 'filter',
  protocolLevel: true,
  protocolName: 'compressed',
  options: compressedOptions,
  strongOptions: ['size'],
  parseFilename(filename) {
    const options = new OptionDict()
    const prefix = 'compressed:'
    options.set('x-file', filename.startsWith(prefix) ? filename.slice(prefix.length) : filename)
    return options
  },
  load: () => import('./module.js'),
}
