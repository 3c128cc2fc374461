import { blockError } from '../../../errors/index.js'
import type { BlockDriver } from '../../../graph/index.js'
import { OptionDict } from '../../../options/index.js'
import { nullOptions } from './options.js'

function nullDriver(name: 'null-co' | 'null-aio', load: BlockDriver['load']): BlockDriver {
  return {
    name,
    kind: 'protocol',
    protocolName: name,
    options: nullOptions,
    strongOptions: ['size', 'read-zeroes'],
    parseFilename(filename) {
      if (filename !== `${name}://`) {
        throw blockError('EINVAL', `The only allowed filename for this driver is '${name}://'`)
      }
      return new OptionDict()
    },
    load,
  }
}

/** Stores nothing; requests complete at once. */
export const nullCo: BlockDriver = nullDriver(
  'null-co',
  async () => (await import('./module.js')).nullCoModule,
)

/** Stores nothing; requests complete later, as on a device. */
export const nullAio: BlockDriver = nullDriver(
  'null-aio',
  async () => (await import('./module.js')).nullAioModule,
)
