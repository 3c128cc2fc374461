import { blockError } from '../../errors/index.js'
import { type OvaPackage, readOva } from '../../formatkit/ova/index.js'
import { Backend, type BlockLayer } from '../../graph/index.js'
import { type LongRun, throwIfAborted } from '../long-run.js'
import { hex } from './create.js'

export interface OvaDisk {
  /** Name of its file in the package. */
  readonly name: string
  readonly id: string
  /** Length of the disk as the descriptor tells it, bytes; undefined: it does not. */
  readonly size: number | undefined
  /** Of its file. Bytes. */
  readonly fileBytes: number
  /** URI of the format as the descriptor tells it. */
  readonly format: string | undefined
}

export interface OvaContents {
  /** Name of the OVF descriptor in the package. */
  readonly descriptor: string
  readonly disks: readonly OvaDisk[]
  /** Whether there is a manifest to verify against. */
  readonly hasManifest: boolean
}

export interface VerifiedFile {
  readonly name: string
  /** `unlisted`: the manifest does not name it; `missing`: only the manifest does. */
  readonly result: 'ok' | 'differs' | 'missing' | 'unlisted'
}

/** Bytes hashed at a time. */
const pieceBytes = 1 << 20

async function withPackage<T>(
  layer: BlockLayer,
  filename: string,
  use: (file: Backend, contents: OvaPackage) => T | Promise<T>,
): Promise<T> {
  const file = await Backend.open(layer, filename, { driver: 'raw' })
  try {
    return await use(file, await readOva(file.node, layer.host))
  } finally {
    await file.close()
  }
}

/** What an OVA holds; its disks are not read. @throws BlockError EINVAL if it is none */
export async function listOva(layer: BlockLayer, filename: string): Promise<OvaContents> {
  return await withPackage(layer, filename, (_file, { descriptor, disks, manifest }) => ({
    descriptor: descriptor.name,
    disks: disks.map(({ id, member, capacity, format }) => ({
      name: member.name,
      id,
      size: capacity,
      fileBytes: member.bytes,
      format,
    })),
    hasManifest: manifest !== undefined,
  }))
}

/**
 * Compares every file of an OVA with its manifest. All bytes are read.
 *
 * @throws BlockError EINVAL if it is none, or has no manifest
 */
export async function verifyOva(
  layer: BlockLayer,
  filename: string,
  { signal, progress }: LongRun = {},
): Promise<VerifiedFile[]> {
  return await withPackage(layer, filename, async (file, { members, manifest }) => {
    const { ciphers } = layer.host
    if (manifest === undefined) {
      throw blockError('EINVAL', `'${filename}' has no manifest`)
    }
    if (ciphers === undefined) {
      throw blockError('ENOTSUP', 'Hashes are not available')
    }
    const total = members.reduce((sum, { bytes }) => sum + bytes, 0)
    let before = 0
    const results: VerifiedFile[] = []
    const buffer = new Uint8Array(pieceBytes)
    for (const { name, offset, bytes } of members) {
      const line = manifest.find((entry) => entry.name === name)
      if (line === undefined) {
        if (!/\.(mf|cert)$/i.test(name)) {
          results.push({ name, result: 'unlisted' })
        }
      } else {
        const hasher = ciphers.hasher(line.hash)
        for (let done = 0; done < bytes; done += pieceBytes) {
          throwIfAborted(signal)
          progress?.(before + done, total)
          const count = Math.min(pieceBytes, bytes - done)
          const wait = file.read(offset + done, count, buffer)
          if (wait !== undefined) {
            await wait
          }
          hasher.update(buffer.subarray(0, count))
        }
        results.push({ name, result: hex(hasher.digest()) === line.digest ? 'ok' : 'differs' })
      }
      before += bytes
    }
    progress?.(total, total)
    for (const { name } of manifest) {
      if (!members.some((member) => member.name === name)) {
        results.push({ name, result: 'missing' })
      }
    }
    return results
  })
}
