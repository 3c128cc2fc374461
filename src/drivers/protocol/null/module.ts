import { blockError } from '../../../errors/index.js'
import {
  type DriverModule,
  type DriverState,
  nothingToReopen,
  type OpenContext,
  type ReopenPlan,
} from '../../../graph/index.js'
import { type DirectPath, type ExtentSink, type FlushPath, type IoNode, ReqFlags } from '../../../io/index.js'
import { takeOptions } from '../../../options/index.js'
import type { Wait } from '../../../sched/index.js'
import { nullOptions } from './options.js'

const defaultSize = 1 << 30

interface NullSettings {
  readonly length: number
  readonly latency: number
  readonly readZeroes: boolean
  /** Complete at once when there is no latency. */
  readonly immediate: boolean
}

class NullState implements DriverState, DirectPath {
  readonly direct = this
  readonly flushPath: FlushPath
  readonly supportedWriteFlags = ReqFlags.fua
  readonly length: number
  readonly #settings: NullSettings
  readonly #node: IoNode
  readonly #name: string | undefined

  /** `name`: plain name of the node, if that says everything. */
  constructor(node: IoNode, settings: NullSettings, name: string | undefined) {
    this.#node = node
    this.#settings = settings
    this.#name = name
    this.length = settings.length
    this.flushPath = { flushToDisk: () => this.#complete() }
  }

  read(_offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    if (this.#settings.readZeroes) {
      buffer.fill(0, bufferOffset, bufferOffset + bytes)
    }
    return this.#complete()
  }

  write(): Wait {
    return this.#complete()
  }

  status(offset: number, bytes: number, _want: 'zero' | 'allocation', out: ExtentSink): Wait {
    if (this.#settings.readZeroes) {
      out.zero(bytes, this.#node, offset)
    } else {
      out.unallocated(bytes)
    }
    return undefined
  }

  allocatedSize(): number {
    return 0
  }

  /** Nothing of its own can change. */
  prepareReopen(): ReopenPlan {
    return nothingToReopen
  }

  exactFilename(): string | undefined {
    return this.#name
  }

  close(): Wait {
    return undefined
  }

  #complete(): Wait {
    const { latency, immediate } = this.#settings
    if (latency > 0) {
      return new Promise((resolve) => {
        setTimeout(resolve, latency / 1e6)
      })
    }
    return immediate ? undefined : Promise.resolve()
  }
}

function open({ node, options }: OpenContext, driverName: string, immediate: boolean): DriverState {
  // QEMU reads the number as unsigned first, so that a negative one gets past the parser.
  if (/^\s*-\d+$/.test(String(options.get('latency-ns') ?? ''))) {
    throw blockError('EINVAL', 'latency-ns is invalid')
  }
  const exact = !options.has('size') && !options.has('read-zeroes')
  const given = takeOptions(options, nullOptions)
  const settings: NullSettings = {
    length: given.size ?? defaultSize,
    latency: given['latency-ns'] ?? 0,
    readZeroes: given['read-zeroes'] ?? false,
    immediate,
  }
  return new NullState(node, settings, exact ? `${driverName}://` : undefined)
}

export const nullCoModule: DriverModule = { open: (context) => open(context, 'null-co', true) }
export const nullAioModule: DriverModule = { open: (context) => open(context, 'null-aio', false) }
