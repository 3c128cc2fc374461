import { blockError } from '../../errors/index.js'
import { makeOvf, tarHeader, tarUnit } from '../../formatkit/ova/index.js'
import type { BlockLayer } from '../../graph/index.js'
import type { Hasher, HostCiphers, HostFile } from '../../host/index.js'
import { type LongRun, throwIfAborted } from '../long-run.js'
import type { ImageSpec } from '../open.js'
import { convertToSink } from '../stream-out.js'

export interface CreateOvaOptions extends LongRun {
  /** Path of the package, which must not exist. */
  readonly target: string
  /** Images of the disks, in order; each becomes a stream-optimized VMDK. */
  readonly disks: readonly (ImageSpec | string)[]
  /** Of the machine; default: that of the file. */
  readonly name?: string | undefined
  /** Processors of the machine; default 1. */
  readonly processors?: number | undefined
  /** Memory of the machine, bytes; default 1 GiB. */
  readonly memory?: number | undefined
}

export interface CreateOvaResult {
  readonly disks: readonly {
    /** Name in the package. */
    readonly name: string
    /** Of the disk, and of its file. Bytes. */
    readonly size: number
    readonly fileBytes: number
  }[]
}

const hash = 'sha256'
/** Archives end with two empty units, and with a whole record of 20. */
const recordBytes = 20 * tarUnit

interface PackedDisk {
  readonly name: string
  readonly size: number
  readonly fileBytes: number
  readonly digest: string
}

/**
 * Makes an OVA: descriptor, manifest (SHA-256) and disks. The disks are compressed as they are written, so
 * room for the descriptor is left at the start; memory does not grow with the disks. What is made stands
 * under the name `target` only when it is complete and durable.
 *
 * @throws BlockError EEXIST if `target` is there; EINVAL without disks; the error of an image or of the file
 */
export async function createOva(layer: BlockLayer, options: CreateOvaOptions): Promise<CreateOvaResult> {
  const { target, disks } = options
  const { files, ciphers } = layer.host
  if (disks.length === 0) {
    throw blockError('EINVAL', 'A package needs at least one disk')
  }
  if (ciphers === undefined) {
    throw blockError('ENOTSUP', 'SHA-256 is not available')
  }
  if (files.stat(target) !== undefined) {
    throw blockError('EEXIST', `Could not create '${target}': File exists`)
  }
  const partial = `${target}.partial`
  const file = await files.open(partial, { write: true, create: true, truncate: true })
  let closed = false
  try {
    const result = await new OvaWriter(layer, file, ciphers, options).run()
    const synced = file.sync()
    if (synced !== undefined) {
      await synced
    }
    closed = true
    await file.close()
    files.rename(partial, target)
    return result
  } catch (error) {
    if (!closed) {
      await file.close()
    }
    if (files.stat(partial) !== undefined) {
      files.unlink(partial)
    }
    throw error
  }
}

class OvaWriter {
  readonly #layer: BlockLayer
  readonly #file: HostFile
  readonly #ciphers: HostCiphers
  readonly #options: CreateOvaOptions
  /** Of the files in the package, without suffix. */
  readonly #name: string
  /** Where the next member goes. */
  #end: number

  constructor(layer: BlockLayer, file: HostFile, ciphers: HostCiphers, options: CreateOvaOptions) {
    this.#layer = layer
    this.#file = file
    this.#ciphers = ciphers
    this.#options = options
    this.#name = fileName(options.target)
    this.#end = 2 * tarUnit + this.#descriptorBytes + unit(this.#manifestBytes)
  }

  /** More than the descriptor needs: it is filled up with spaces. */
  get #descriptorBytes(): number {
    const { disks } = this.#options
    const empty = this.#descriptor(
      disks.map(() => ({ name: diskName(this.#name, 999), size: 0, fileBytes: 0 })),
    )
    return unit(new TextEncoder().encode(empty).length + disks.length * 64)
  }

  get #manifestBytes(): number {
    const names = [`${this.#name}.ovf`, ...this.#options.disks.map((_, i) => diskName(this.#name, i))]
    return names.reduce((sum, name) => sum + manifestLine(name, '0'.repeat(64)).length, 0)
  }

  #descriptor(disks: readonly { name: string; size: number; fileBytes: number }[]): string {
    const { processors = 1, memory = 2 ** 30 } = this.#options
    return makeOvf({
      name: this.#options.name ?? this.#name,
      processors,
      memory,
      disks: disks.map(({ name, size, fileBytes }) => ({ file: name, bytes: fileBytes, capacity: size })),
    })
  }

  async run(): Promise<CreateOvaResult> {
    const { disks } = this.#options
    const packed: PackedDisk[] = []
    for (const [index, disk] of disks.entries()) {
      packed.push(await this.#addDisk(disk, index))
    }
    const end = new Uint8Array(Math.ceil((this.#end + 2 * tarUnit) / recordBytes) * recordBytes - this.#end)
    await this.#write(this.#end, end)
    await this.#writeFront(packed)
    return { disks: packed.map(({ name, size, fileBytes }) => ({ name, size, fileBytes })) }
  }

  async #addDisk(disk: ImageSpec | string, index: number): Promise<PackedDisk> {
    const { disks, progress, signal } = this.#options
    const name = diskName(this.#name, index)
    const start = this.#end + tarUnit
    const hasher: Hasher = this.#ciphers.hasher(hash)
    let fileBytes = 0
    const { size } = await convertToSink(
      this.#layer,
      {
        write: (chunk) => {
          hasher.update(chunk)
          const at = start + fileBytes
          fileBytes += chunk.length
          return this.#file.write(at, chunk.length, chunk, 0)
        },
      },
      {
        sources: [disk],
        format: 'vmdk',
        options: { subformat: 'streamOptimized', adapter_type: 'lsilogic' },
        signal,
        progress: (done, total) => progress?.(index + (total === 0 ? 1 : done / total), disks.length),
      },
    )
    await this.#write(this.#end, tarHeader(name, fileBytes, now()))
    const padding = unit(fileBytes) - fileBytes
    if (padding > 0) {
      await this.#write(start + fileBytes, new Uint8Array(padding))
    }
    this.#end = start + unit(fileBytes)
    return { name, size, fileBytes, digest: hex(hasher.digest()) }
  }

  /** Descriptor and manifest, in front of the disks, where importers look for them. */
  async #writeFront(disks: readonly PackedDisk[]): Promise<void> {
    throwIfAborted(this.#options.signal)
    const encoder = new TextEncoder()
    const room = this.#descriptorBytes
    const descriptor = new Uint8Array(room).fill(0x20)
    const text = encoder.encode(this.#descriptor(disks))
    if (text.length > room) {
      throw blockError('EINVAL', `Descriptor of ${text.length} bytes does not fit into the room of ${room}`)
    }
    descriptor.set(text)
    const descriptorName = `${this.#name}.ovf`
    await this.#write(0, tarHeader(descriptorName, room, now()))
    await this.#write(tarUnit, descriptor)
    const lines = [
      manifestLine(descriptorName, hex(this.#ciphers.digest(hash, descriptor))),
      ...disks.map(({ name, digest }) => manifestLine(name, digest)),
    ]
    const manifest = encoder.encode(lines.join(''))
    await this.#write(tarUnit + room, tarHeader(`${this.#name}.mf`, manifest.length, now()))
    const padded = new Uint8Array(unit(manifest.length))
    padded.set(manifest)
    await this.#write(2 * tarUnit + room, padded)
  }

  async #write(offset: number, bytes: Uint8Array): Promise<void> {
    const wait = this.#file.write(offset, bytes.length, bytes, 0)
    if (wait !== undefined) {
      await wait
    }
  }
}

/** Up to a whole unit of the archive. */
function unit(bytes: number): number {
  return Math.ceil(bytes / tarUnit) * tarUnit
}

function now(): number {
  return Math.floor(Date.now() / 1000)
}

function diskName(name: string, index: number): string {
  return `${name}-disk${index + 1}.vmdk`
}

function manifestLine(name: string, digest: string): string {
  return `SHA256(${name})= ${digest}\n`
}

export function hex(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** References to files are URIs: what would have to be quoted there is replaced. */
function fileName(target: string): string {
  const name = target.replace(/^.*[/\\]/, '').replace(/\.ova$/i, '')
  return name.replace(/[^\w.-]+/g, '-').slice(0, 60) || 'disk'
}
