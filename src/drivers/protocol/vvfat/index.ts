import type { BlockDriver } from '../../../graph/index.js'
import { OptionDict } from '../../../options/index.js'
import { vvfatOptions } from './options.js'

/** A folder as a FAT disk, read-only unless `rw` is given. Names look like `fat:16:floppy:path/of/folder`. */
export const vvfat: BlockDriver = {
  name: 'vvfat',
  kind: 'protocol',
  protocolName: 'fat',
  options: vvfatOptions,
  strongOptions: ['dir', 'fat-type', 'floppy', 'label', 'rw'],
  parseFilename(filename) {
    const options = new OptionDict()
    const has = (word: string): boolean => filename.includes(`:${word}:`)
    options.set('fat-type', has('32') ? 32 : has('16') ? 16 : has('12') ? 12 : 0)
    options.set('floppy', has('floppy'))
    options.set('rw', has('rw'))
    // A letter of a drive belongs to the folder.
    const colon = filename.lastIndexOf(':')
    const isDrive = filename[colon - 2] === ':' && /[a-z]/i.test(filename[colon - 1] ?? '')
    options.set('dir', filename.slice(isDrive ? colon - 1 : colon + 1))
    return options
  },
  load: () => import('./module.js'),
}
