import { PassThrough } from '../../../formatkit/filter/index.js'
import { type BlockChild, type BlockNode, Perm, unfreezeChain } from '../../../graph/index.js'
import { ChainStatus, chainStatus, type IoNode, ReqFlags } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'

/** Permissions that the image gets asked for as the node's users ask. */
const passed = Perm.consistentRead | Perm.write | Perm.resize

/** An open copy-on-read node. */
export class CopyOnRead extends PassThrough {
  readonly #node: BlockNode
  /** What this node and those below it hold is not copied, as long as there is one above that holds it. */
  readonly #bottom: BlockNode | undefined

  constructor(node: BlockNode, file: BlockChild, bottom: BlockNode | undefined) {
    super(file)
    this.#node = node
    this.#bottom = bottom
  }

  childPermissions(_child: BlockChild, perm: number, shared: number): { perm: number; shared: number } {
    return {
      perm: (perm & passed) | Perm.writeUnchanged,
      shared: (shared & passed) | Perm.writeUnchanged,
    }
  }

  override read(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Wait {
    return this.#bottom === undefined
      ? this.file.node.read(offset, bytes, buffer, bufferOffset, flags | ReqFlags.copyOnRead)
      : this.#readDownTo(this.#bottom, offset, bytes, buffer, bufferOffset, flags)
  }

  /** Only what comes from `bottom` or from above it is copied. */
  async #readDownTo(
    bottom: IoNode,
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Promise<void> {
    const image = this.file.node
    const beyond = bottom.backingNode ?? bottom.filteredNode
    const status = new ChainStatus()
    for (let done = 0; done < bytes; ) {
      const at = offset + done
      await chainStatus(image, beyond, at, bytes - done, 'allocation', status)
      const chunk = status.bytes === 0 ? bytes - done : status.bytes
      const copied = status.allocated && status.depth > 0 ? flags | ReqFlags.copyOnRead : flags
      const wait = image.read(at, chunk, buffer, bufferOffset + done, copied)
      if (wait !== undefined) {
        await wait
      }
      done += chunk
    }
  }

  writeCompressed(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.file.node.write(offset, bytes, buffer, bufferOffset, ReqFlags.writeCompressed)
  }

  override close(): Wait {
    if (this.#bottom !== undefined) {
      unfreezeChain(this.#node, this.#bottom)
    }
    return undefined
  }
}
