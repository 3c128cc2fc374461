import type { BlockDriver } from '../../../graph/index.js'
import { hostFileOptions, stripProtocolPrefix } from '../../../hostfile/options.js'
import { OptionDict } from '../../../options/index.js'
import { deviceCreateOptions } from './options.js'

/** Block and character devices of the host. */
export const hostDevice: BlockDriver = {
  name: 'host_device',
  kind: 'protocol',
  protocolName: 'host_device',
  needsFilename: true,
  options: hostFileOptions,
  mutableOptions: ['x-check-cache-dropped'],
  createOptions: deviceCreateOptions,
  probeDevice(filename, host) {
    // Lets a driver made for CD-ROMs win.
    if (filename.startsWith('/dev/cdrom')) {
      return 50
    }
    const kind = host.files.stat(filename)?.kind
    return kind === 'char' || kind === 'block' ? 100 : 0
  },
  parseFilename: (filename) => new OptionDict([['filename', stripProtocolPrefix(filename, 'host_device:')]]),
  load: () => import('./module.js'),
}
