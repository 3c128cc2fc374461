import { blockError } from '../../../errors/index.js'
import { PassThrough } from '../../../formatkit/filter/index.js'
import { driverInfo, type OpenContext } from '../../../graph/index.js'
import { type BlockLimits, ReqFlags } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'

/** @throws BlockError ENOTSUP if the image below takes no compressed writes */
export function open({ file }: OpenContext): Compress {
  if (!file.node.canWriteCompressed) {
    const format = file.node.driver?.name ?? '(no format)'
    throw blockError('ENOTSUP', `Compression is not supported for underlying format: ${format}`)
  }
  return new Compress(file)
}

/** An open compress node. Whole clusters only: parts of them are read, completed and written again. */
class Compress extends PassThrough {
  override write(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Wait {
    const { node } = this.file
    // The last cluster may reach past the end of the image.
    const inside = Math.min(bytes, node.length - offset)
    return node.write(offset, inside, buffer, bufferOffset, flags | ReqFlags.writeCompressed)
  }

  refreshLimits(limits: BlockLimits): void {
    const clusterSize = driverInfo(this.file.node)?.clusterSize ?? 0
    if (clusterSize !== 0) {
      limits.requestAlignment = clusterSize
    }
  }
}
