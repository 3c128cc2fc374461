import type { BlockDriver } from '../../../graph/index.js'
import { joinRuntimeOptions, qcow2AmendOptions, qcow2CreateOptions, qcow2RuntimeOptions } from './options.js'

const magic = [0x51, 0x46, 0x49, 0xfb]
/** Bytes of the header that QEMU's probe wants to see. */
const probedHeaderBytes = 112

/** QEMU copy on write, versions 2 and 3. */
export const qcow2: BlockDriver = {
  name: 'qcow2',
  kind: 'format',
  supportsBacking: true,
  options: qcow2RuntimeOptions,
  strongOptions: ['encrypt.key-secret'],
  mutableOptions: Object.keys(qcow2RuntimeOptions),
  joinOptions: joinRuntimeOptions,
  createOptions: qcow2CreateOptions,
  amendOptions: qcow2AmendOptions,
  probe(head) {
    if (head.length < probedHeaderBytes || magic.some((byte, i) => head[i] !== byte)) {
      return 0
    }
    const version = new DataView(head.buffer, head.byteOffset, head.byteLength).getUint32(4)
    return version >= 2 ? 100 : 0
  },
  load: () => import('./module.js'),
}
