import type { SpecificInfo } from '../../../graph/index.js'
import type { IoNode } from '../../../io/index.js'
import type { OptionTree } from '../../../options/index.js'
import { readBitmapDirectory } from './bitmap-directory.js'
import { Autoclear, Compatible, CompressionType, Incompatible } from './constants.js'
import type { Qcow2Header } from './header.js'

/**
 * What `qemu-img info` prints under "Format specific information", keys in QEMU 7.2's order.
 *
 * @param encrypt what there is to say about the encryption, if there is one
 * @param file the node that holds the image, read only if the image has persistent bitmaps
 */
export async function specificInfo(
  header: Qcow2Header,
  file: IoNode,
  encrypt?: OptionTree,
): Promise<SpecificInfo> {
  const compression = header.compressionType === CompressionType.zstd ? 'zstd' : 'zlib'
  const encryption = encrypt === undefined ? {} : { encrypt }
  const refcountBits = 2 ** header.refcountOrder
  if (header.version === 2) {
    return {
      type: 'qcow2',
      data: { compat: '0.10', 'compression-type': compression, 'refcount-bits': refcountBits, ...encryption },
    }
  }
  return {
    type: 'qcow2',
    data: {
      compat: '1.1',
      'compression-type': compression,
      'lazy-refcounts': (header.compatible & Compatible.lazyRefcounts) !== 0,
      bitmaps: await bitmapInfo(header, file),
      'refcount-bits': refcountBits,
      ...encryption,
      'data-file': header.dataFile,
      'data-file-raw':
        (header.incompatible & Incompatible.dataFile) === 0
          ? undefined
          : (header.autoclear & Autoclear.dataFileRaw) !== 0,
      corrupt: (header.incompatible & Incompatible.corrupt) !== 0,
      'extended-l2': (header.incompatible & Incompatible.extendedL2) !== 0,
    },
  }
}

async function bitmapInfo(header: Qcow2Header, file: IoNode) {
  if (header.bitmaps === undefined) {
    return undefined
  }
  const bitmaps = await readBitmapDirectory(file, header)
  return bitmaps.map(({ name, granularity, inUse, auto }) => ({
    flags: [...(inUse ? ['in-use'] : []), ...(auto ? ['auto'] : [])],
    name,
    granularity,
  }))
}
