import { blockError, codeOf, strerror } from '../errors/index.js'
import type { BlockDriver } from './driver.js'
import type { BlockLayer } from './layer.js'
import type { BlockNode } from './node.js'
import { pathHasProtocol } from './paths.js'

/** Bytes of an image that probing looks at. */
export const probeBytes = 512

/** The driver that claims the device `filename`, if any (seed row 13). */
export function findDeviceDriver(layer: BlockLayer, filename: string): BlockDriver | undefined {
  let best: BlockDriver | undefined
  let max = 0
  for (const driver of layer.drivers) {
    const score = driver.probeDevice?.(filename, layer.host) ?? 0
    if (score > max) {
      max = score
      best = driver
    }
  }
  return best
}

/**
 * The protocol driver for a name. A device wins over a prefix, because device names may contain
 * colons (seed row 14).
 */
export function findProtocol(layer: BlockLayer, filename: string, allowPrefix: boolean): BlockDriver {
  const device = findDeviceDriver(layer, filename)
  if (device !== undefined) {
    return device
  }
  if (!allowPrefix || !pathHasProtocol(filename, layer.host.pathStyle)) {
    const file = layer.findFormat('file')
    if (file === undefined) {
      throw blockError('ENOENT', "Unknown protocol 'file'")
    }
    return file
  }
  const protocol = filename.slice(0, filename.indexOf(':')).slice(0, 127)
  const driver = layer.drivers.find((candidate) => candidate.protocolName === protocol)
  if (driver === undefined) {
    throw blockError('EINVAL', `Unknown protocol '${protocol}'`)
  }
  return driver
}

/** The format that `head` looks most like; the first with the greatest score wins (seed row 15). */
export function probeAll(
  layer: BlockLayer,
  head: Uint8Array,
  filename: string | undefined,
): BlockDriver | undefined {
  let best: BlockDriver | undefined
  let max = 0
  for (const driver of layer.drivers) {
    const score = driver.probe?.(head, filename) ?? 0
    if (score > max) {
      max = score
      best = driver
    }
  }
  return best
}

/** The format of the image in `file` (seed row 16). An empty file or drive is raw, without a read. */
export async function findImageFormat(
  layer: BlockLayer,
  file: BlockNode,
  filename: string | undefined,
): Promise<BlockDriver> {
  if (file.state?.inserted === false || file.length === 0) {
    const raw = layer.findFormat('raw')
    if (raw !== undefined) {
      return raw
    }
  }
  const head = new Uint8Array(probeBytes)
  try {
    const wait = file.read(0, probeBytes, head, 0, 0)
    if (wait !== undefined) {
      await wait
    }
  } catch (error) {
    const code = codeOf(error)
    throw blockError(code, `Could not read image for determining its format: ${strerror(code)}`, {
      cause: error,
    })
  }
  const driver = probeAll(layer, head, filename)
  if (driver === undefined) {
    throw blockError('ENOENT', 'Could not determine image format: No compatible driver found')
  }
  if (layer.probeTails && driver.name === 'raw' && filename !== undefined) {
    return (await probeTail(layer, file, filename)) ?? driver
  }
  return driver
}

/** Bytes at the end of a file that formats are told by. */
const tailBytes = 512

/** The format that the end of a file says it is, where that is asked for. */
async function probeTail(
  layer: BlockLayer,
  file: BlockNode,
  filename: string,
): Promise<BlockDriver | undefined> {
  const { length } = file
  const asked = layer.drivers.filter((driver) => driver.probeTail !== undefined)
  if (asked.length === 0 || length < 2 * tailBytes) {
    return undefined
  }
  const tail = new Uint8Array(tailBytes)
  await file.read(length - tailBytes, tailBytes, tail, 0, 0)
  return asked.find((driver) => driver.probeTail?.(tail, length, filename))
}
