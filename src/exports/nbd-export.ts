import { blockError } from '../errors/index.js'
import {
  Backend,
  type BlockLayer,
  type BlockNode,
  type DirtyBitmap,
  lookupDirtyBitmap,
  Perm,
} from '../graph/index.js'
import { BlockStatus, ReqFlags } from '../io/index.js'
import {
  type MetaContext,
  maxPayloadBytes,
  maxStringBytes,
  type ServedExport,
  TransmissionFlags,
  type ZeroWish,
} from '../nbd/index.js'
import type { Wait } from '../sched/index.js'
import { allocationContext, bitmapContext, depthContext } from './meta-contexts.js'

/** QAPI `BlockExportOptionsNbd` with what every export has. */
export interface NbdExportOptions {
  /** Default: the node's name. */
  readonly name?: string
  readonly description?: string
  /** Default false. */
  readonly writable?: boolean
  /** Every write is durable when it is answered. Default false. */
  readonly writeThrough?: boolean
  /** Dirty bitmaps that clients may read, by name in the chain of the node, or of another node. */
  readonly bitmaps?: readonly (string | { readonly node: string; readonly name: string })[]
  /** Offer `qemu:allocation-depth`. */
  readonly allocationDepth?: boolean
  /** Tell clients that they may use several connections. */
  readonly multiConn?: boolean
}

/** Reads of fewer bytes are not looked at for zeroes: reading them costs less than asking. */
const holeBytes = 32 * 1024
/** What is read at a time to bring a range into caches, bytes. */
const cacheChunk = 1 << 20

/** A node of the block graph as an NBD export. It has a backend of its own; closing the export gives it back. */
export class NbdExport implements ServedExport {
  readonly name: string
  readonly description: string | undefined
  readonly size: number
  readonly flags: number
  readonly minimumBlock: number
  readonly maximumBlock: number
  readonly contexts: readonly MetaContext[]
  readonly backend: Backend
  readonly #bitmaps: readonly DirtyBitmap[]
  readonly #status = new BlockStatus()
  /** Asking for the status makes this image read from its file: not worth it for a hint. */
  #statusWaits = false
  #closed = false

  private constructor(
    backend: Backend,
    name: string,
    options: NbdExportOptions,
    bitmaps: readonly DirtyBitmap[],
  ) {
    const { node } = backend
    this.backend = backend
    this.name = name
    this.description = options.description
    this.size = node.length
    this.flags = flagsOf(options)
    this.minimumBlock = node.limits.requestAlignment
    const { maxTransfer } = node.limits
    this.maximumBlock = maxTransfer === 0 ? maxPayloadBytes : Math.min(maxTransfer, maxPayloadBytes)
    this.#bitmaps = bitmaps
    this.contexts = [
      allocationContext(backend),
      ...(options.allocationDepth === true ? [depthContext(backend)] : []),
      ...bitmaps.map(bitmapContext),
    ]
  }

  /**
   * Makes an export of `node`, which gets a further reference.
   * @throws BlockError with QEMU's text
   */
  static async create(
    layer: BlockLayer,
    node: BlockNode,
    options: NbdExportOptions = {},
  ): Promise<NbdExport> {
    const name = options.name ?? node.name
    const writable = options.writable ?? false
    if (new TextEncoder().encode(name).length > maxStringBytes) {
      throw blockError('EINVAL', `export name '${name}' too long`)
    }
    if (new TextEncoder().encode(options.description ?? '').length > maxStringBytes) {
      throw blockError('EINVAL', `description '${options.description}' too long`)
    }
    if (writable && node.readOnly) {
      throw blockError('EINVAL', 'Cannot export read-only node as writable')
    }
    const backend = new Backend(layer, {
      perm: Perm.consistentRead | (writable ? Perm.write : 0),
      // Clients are told the length once.
      shared: Perm.all & ~Perm.resize,
      writeThrough: options.writeThrough ?? false,
    })
    backend.allowAioContextChange = true
    try {
      await backend.insert(node)
      const bitmaps = (options.bitmaps ?? []).map((wanted) => {
        const bitmap = typeof wanted === 'string' ? findInChain(node, wanted) : lookupIn(layer, wanted)
        bitmap.check({ readonly: true })
        if (!writable && !node.readOnly && bitmap.enabled) {
          throw blockError(
            'EINVAL',
            `Enabled bitmap '${bitmap.name ?? ''}' incompatible with readonly export`,
          )
        }
        return bitmap
      })
      for (const bitmap of bitmaps) {
        bitmap.setBusy(true)
      }
      return new NbdExport(backend, name, options, bitmaps)
    } catch (error) {
      await backend.close()
      throw error
    }
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.backend.read(offset, bytes, buffer, bufferOffset, 0)
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, fua: boolean): Wait {
    return this.backend.write(offset, bytes, buffer, bufferOffset, fua ? ReqFlags.fua : 0)
  }

  writeZeroes(offset: number, bytes: number, { fua, mayUnmap, fast }: ZeroWish): Wait {
    return this.backend.writeZeroes(
      offset,
      bytes,
      (fua ? ReqFlags.fua : 0) | (mayUnmap ? ReqFlags.mayUnmap : 0) | (fast ? ReqFlags.noFallback : 0),
    )
  }

  trim(offset: number, bytes: number): Wait {
    return this.backend.discard(offset, bytes)
  }

  flush(): Wait {
    return this.backend.flush()
  }

  async cache(offset: number, bytes: number): Promise<void> {
    const buffer = new Uint8Array(Math.min(bytes, cacheChunk))
    for (let done = 0; done < bytes; done += buffer.length) {
      const wait = this.backend.read(offset + done, Math.min(buffer.length, bytes - done), buffer)
      if (wait !== undefined) {
        await wait
      }
    }
  }

  readsAsZeroes(offset: number, bytes: number): boolean {
    if (bytes < holeBytes || this.#statusWaits || this.backend.isHeld) {
      return false
    }
    let wait: Wait
    try {
      wait = this.backend.node.status(offset, bytes, 'zero', this.#status)
    } catch {
      // The read reports it.
      return false
    }
    if (wait !== undefined) {
      this.#statusWaits = true
      wait.catch(() => undefined)
      return false
    }
    return this.#status.zero && this.#status.bytes >= bytes
  }

  /** Lets the node and the bitmaps go. No request may be in flight. Idempotent. */
  async close(): Promise<void> {
    if (!this.#closed) {
      this.#closed = true
      for (const bitmap of this.#bitmaps) {
        bitmap.setBusy(false)
      }
      await this.backend.close()
    }
  }
}

function flagsOf({ writable, multiConn }: NbdExportOptions): number {
  const f = TransmissionFlags
  const always =
    f.hasFlags | f.sendFlush | f.sendFua | f.sendCache | (multiConn === true ? f.canMultiConn : 0)
  return writable === true ? always | f.sendTrim | f.sendWriteZeroes | f.sendFastZero : always | f.readOnly
}

/** The bitmap of that name in the first layer that has one. */
function findInChain(top: BlockNode, name: string): DirtyBitmap {
  for (let node: BlockNode | undefined = top; node !== undefined; node = node.filterNode ?? node.backing) {
    const bitmap = node.dirtyBitmaps.find(name)
    if (bitmap !== undefined) {
      return bitmap
    }
  }
  throw blockError('ENOENT', `Bitmap '${name}' is not found`)
}

function lookupIn(layer: BlockLayer, { node, name }: { node: string; name: string }): DirtyBitmap {
  return lookupDirtyBitmap(layer, node, name)
}
