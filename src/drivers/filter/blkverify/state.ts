import { blockError, codeOf, errnoNumber } from '../../../errors/index.js'
import type { BlockChild, BlockNode, DriverState } from '../../../graph/index.js'
import { type DirectPath, ExtentFlags, type ExtentSink, type FlushPath, ReqFlags } from '../../../io/index.js'
import { attempt, type Wait } from '../../../sched/index.js'

/** An open blkverify node. A difference ends the program, or fails the request where there is none to end. */
export class BlkverifyState implements DriverState, DirectPath, FlushPath {
  readonly direct = this
  readonly flushPath = this
  readonly flushesChildren = true
  readonly supportedWriteFlags = ReqFlags.writeUnchanged
  readonly supportedZeroFlags = ReqFlags.writeUnchanged
  readonly #node: BlockNode
  readonly #raw: BlockChild
  readonly #test: BlockChild

  constructor(node: BlockNode, raw: BlockChild, test: BlockChild) {
    this.#node = node
    this.#raw = raw
    this.#test = test
  }

  get length(): number {
    return this.#test.node.length
  }

  async read(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Promise<void> {
    const copy = new Uint8Array(bytes)
    await this.#both('read', offset, bytes, (node, isTest) =>
      isTest
        ? node.read(offset, bytes, buffer, bufferOffset, flags)
        : node.read(offset, bytes, copy, 0, flags),
    )
    if (!this.#node.host.sameBytes(buffer, bufferOffset, copy, 0, bytes)) {
      const at = copy.findIndex((byte, i) => byte !== buffer[bufferOffset + i])
      this.#fail('read', offset, bytes, `contents mismatch at offset ${offset + at}`)
    }
  }

  async write(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Promise<void> {
    await this.#both('write', offset, bytes, (node) => node.write(offset, bytes, buffer, bufferOffset, flags))
  }

  /** Does the same on both; both must have the same outcome, which is this request's. */
  async #both(
    operation: string,
    offset: number,
    bytes: number,
    run: (node: BlockNode, isTest: boolean) => Wait,
  ): Promise<void> {
    const [test, raw] = await Promise.allSettled([
      attempt(() => run(this.#test.node, true)),
      attempt(() => run(this.#raw.node, false)),
    ])
    const codes = [test, raw].map((result) =>
      result.status === 'fulfilled' ? 0 : -errnoNumber(codeOf(result.reason)),
    )
    if (codes[0] !== codes[1]) {
      this.#fail(operation, offset, bytes, `return value mismatch ${codes[0]} != ${codes[1]}`)
    }
    if (test.status === 'rejected') {
      throw test.reason
    }
  }

  #fail(operation: string, offset: number, bytes: number, what: string): never {
    const line = `blkverify: ${operation} offset=${offset} bytes=${bytes} ${what}`
    this.#node.host.abort?.(line)
    throw blockError('EIO', line, { at: { node: this.#node.name, operation, offset, bytes } })
  }

  status(offset: number, bytes: number, _want: 'zero' | 'allocation', out: ExtentSink): Wait {
    out.data(bytes, this.#raw.node, offset, ExtentFlags.raw)
    return undefined
  }

  /** Only the image matters. */
  flushToOs(): Wait {
    return this.#test.node.flush()
  }

  exactFilename(): string | undefined {
    const raw = this.#raw.node.exactFilename
    const test = this.#test.node.exactFilename
    return raw === '' || test === '' ? undefined : `blkverify:${raw}:${test}`
  }

  close(): Wait {
    return undefined
  }
}
