import { blockError, codeOf, prefixed } from '../../../errors/index.js'
import {
  Backend,
  type BlockLayer,
  type CreateContext,
  type OpenContext,
  truncateNode,
} from '../../../graph/index.js'
import { type HostFileState, openHostFile, parseWord } from '../../../hostfile/index.js'
import { ReqFlags } from '../../../io/index.js'
import type { OptionsOf } from '../../../options/index.js'
import type { deviceCreateOptions } from './options.js'

export async function open(context: OpenContext): Promise<HostFileState> {
  return await openHostFile(context, 'host_device', true)
}

/**
 * Prepares an existing device as the target of a new image: it must be large enough, and its first
 * sector is cleared so that no old format is recognised there (seed row 21).
 */
export async function create({ layer, filename, options }: CreateContext): Promise<void> {
  const values: OptionsOf<typeof deviceCreateOptions> = options
  const preallocation = parseWord(values.preallocation, ['off', 'metadata', 'falloc', 'full'])
  if (preallocation !== 'off') {
    throw blockError('ENOTSUP', `Unsupported preallocation mode '${preallocation}'`)
  }
  const backend = await openTarget(layer, filename)
  try {
    await fitTo(backend, values.size ?? 0)
    await clearFirstSector(backend)
  } finally {
    await backend.close()
  }
}

async function openTarget(layer: BlockLayer, filename: string): Promise<Backend> {
  try {
    return await Backend.open(layer, filename, { driver: 'host_device' }, { write: true, resize: true })
  } catch (error) {
    throw prefixed(
      error,
      "Protocol driver 'host_device' does not support creating new images, so an existing image must be " +
        'selected as the target; however, opening the given target as an existing image failed: ',
    )
  }
}

async function fitTo(backend: Backend, size: number): Promise<void> {
  try {
    await truncateNode(backend.node, size, { exact: false, preallocation: 'off', zero: false })
  } catch (error) {
    // A target that cannot change its size will do if it is large enough.
    if (codeOf(error) !== 'ENOTSUP' || backend.length < size) {
      throw error
    }
  }
}

async function clearFirstSector(backend: Backend): Promise<void> {
  const bytes = Math.min(backend.length, 512)
  if (bytes === 0) {
    return
  }
  try {
    const wait = backend.writeZeroes(0, bytes, ReqFlags.mayUnmap)
    if (wait !== undefined) {
      await wait
    }
  } catch (error) {
    throw prefixed(error, "Failed to clear the new image's first sector: ")
  }
}
