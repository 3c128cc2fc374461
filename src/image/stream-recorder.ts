import { blockError } from '../errors/index.js'
import {
  type BlockDriver,
  type BlockLayer,
  createBlockLayer,
  type DriverState,
  type TruncateOptions,
} from '../graph/index.js'
import type { DirectPath, ExtentSink, IoNode, RangeResult } from '../io/index.js'
import type { Wait } from '../sched/index.js'
import type { RecordedContents } from './stream-contents.js'

/** Where the bytes of a buffer come from. */
export interface BufferOrigin {
  /** Place in the source of the buffer's first byte; undefined: not a buffer of guest data. */
  originOf(buffer: Uint8Array): number | undefined
  /** Fills the buffer from the source. */
  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void>
}

const recorderProtocol = 'blockgraph-stream'

/** The only name there is in a {@link recordingLayer} besides those of the host. */
export const recorderName = `${recorderProtocol}:image`

/** A layer of its own with the drivers of `layer`, where {@link recorderName} is a file that is only recorded. */
export function recordingLayer(
  layer: BlockLayer,
  contents: RecordedContents,
  origin: BufferOrigin,
): BlockLayer {
  return createBlockLayer({
    host: layer.host,
    drivers: [...[...layer.drivers].reverse(), recorderDriver(contents, origin)],
    implicitFiles: layer.implicitFiles,
  })
}

/**
 * The protocol driver below an image that is only worked out, not stored: it keeps metadata in memory
 * and remembers for guest data where it came from.
 */
function recorderDriver(contents: RecordedContents, origin: BufferOrigin): BlockDriver {
  return {
    name: recorderProtocol,
    kind: 'protocol',
    protocolName: recorderProtocol,
    options: { filename: { type: 'string' } },
    createOptions: { size: { type: 'size' } },
    load: () => ({
      create: ({ filename, options }) => {
        if (filename !== recorderName) {
          throw blockError('ENOTSUP', 'An image of several files cannot be written to a stream')
        }
        contents.truncate(0)
        contents.truncate(Math.ceil(Number(options.size ?? 0) / 512) * 512)
      },
      open: ({ node, options }) => {
        options.delete('filename')
        return new RecorderState(node, contents, origin)
      },
    }),
  }
}

class RecorderState implements DriverState, DirectPath {
  readonly direct: DirectPath = this
  readonly variableLength = true
  readonly hasZeroInit = true
  readonly #node: IoNode
  readonly #contents: RecordedContents
  readonly #origin: BufferOrigin

  constructor(node: IoNode, contents: RecordedContents, origin: BufferOrigin) {
    this.#node = node
    this.#contents = contents
    this.#origin = origin
  }

  get length(): number {
    return this.#contents.size
  }

  allocatedSize(): number {
    return this.#contents.size
  }

  async read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    for (let done = 0; done < bytes; ) {
      const run = this.#contents.runAt(offset + done, bytes - done)
      if (run.source === undefined) {
        this.#contents.readPages(offset + done, run.bytes, buffer, bufferOffset + done)
      } else {
        await this.#origin.read(run.source, run.bytes, buffer, bufferOffset + done)
      }
      done += run.bytes
    }
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    const source = this.#origin.originOf(buffer)
    if (source === undefined) {
      this.#contents.write(offset, bytes, buffer, bufferOffset)
    } else {
      this.#contents.refer(offset, bytes, source + bufferOffset)
    }
    return undefined
  }

  zero(offset: number, bytes: number, _flags: number, out: RangeResult): Wait {
    this.#contents.zero(offset, bytes)
    out.bytes = bytes
    return undefined
  }

  status(offset: number, bytes: number, _want: 'zero' | 'allocation', out: ExtentSink): Wait {
    const end = offset + bytes
    for (let at = offset; at < end; ) {
      const run = this.#contents.runAt(at, end - at)
      const more = run.hole ? out.zero(run.bytes, this.#node, at) : out.data(run.bytes, this.#node, at, 0)
      if (!more) {
        break
      }
      at += run.bytes
    }
    return undefined
  }

  truncate(length: number, _how: TruncateOptions): Wait {
    this.#contents.truncate(length)
    return undefined
  }

  close(): Wait {
    return undefined
  }
}
