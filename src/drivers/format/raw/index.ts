import { type BlockDriver, Role } from '../../../graph/index.js'
import { type OptionValue, parseSize } from '../../../options/index.js'
import { rawCreateOptions, rawOptions } from './options.js'

/** Plain bytes: the image is the file, or a window of it. */
export const raw: BlockDriver = {
  name: 'raw',
  kind: 'format',
  options: rawOptions,
  strongOptions: ['offset', 'size'],
  mutableOptions: ['offset', 'size'],
  createOptions: rawCreateOptions,
  // The smallest score there is: raw is chosen if and only if nothing else recognises the image.
  probe: () => 1,
  // Without a window raw is like a filter: it adds no needs of its own.
  fileRole(options) {
    const windowed = options.has('size') || !isNothing(options.get('offset'))
    return (windowed ? Role.data : Role.filtered) | Role.primary
  },
  load: () => import('./module.js'),
}

function isNothing(offset: OptionValue | undefined): boolean {
  return offset === undefined || offset === 0 || (typeof offset === 'string' && parseSize(offset) === 0)
}
