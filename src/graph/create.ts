import { blockError, codeOf, isBlockError, strerror } from '../errors/index.js'
import { OptionDict, type OptionSchema } from '../options/index.js'
import type { BlockDriver, CreateContext } from './driver.js'
import type { BlockLayer } from './layer.js'
import type { BlockNode } from './node.js'
import { findProtocol } from './probe.js'

/** Typed create options, as the driver's schema types them. */
export type CreateValues = Readonly<Record<string, string | number | boolean>>

function pick(values: CreateValues, schema: OptionSchema): Record<string, string | number | boolean> {
  return Object.fromEntries(Object.entries(values).filter(([name]) => Object.hasOwn(schema, name)))
}

function without(values: CreateValues, schema: OptionSchema): CreateValues {
  return Object.fromEntries(Object.entries(values).filter(([name]) => !Object.hasOwn(schema, name)))
}

/**
 * Creates an image with `driver` (seed row 20). `values` may also hold options of the protocol
 * below, which are passed on to it. When it throws, files that did not exist before are gone again.
 *
 * @throws BlockError ENOTSUP `Driver '%s' does not support image creation`, or the driver's own.
 */
export async function createWithDriver(
  layer: BlockLayer,
  driver: BlockDriver,
  filename: string,
  values: CreateValues,
): Promise<void> {
  const module = await layer.loadDriver(driver)
  if (driver.createOptions === undefined || module.create === undefined) {
    throw blockError('ENOTSUP', `Driver '${driver.name}' does not support image creation`)
  }
  const opened: BlockNode[] = []
  const created: string[] = []
  const createAndOpen = async (name: string, size: number): Promise<BlockNode> => {
    const existed = fileExists(layer, name)
    // What the format has an option for is not the protocol's business, even under the same name.
    await createFile(layer, name, { ...without(values, driver.createOptions ?? {}), size })
    if (!existed && name !== filename) {
      created.push(name)
    }
    const node = await layer.open(name, new OptionDict(), { write: true, protocol: true })
    opened.push(node)
    return node
  }
  const context: CreateContext = {
    layer,
    host: layer.host,
    filename,
    options: values,
    createFile: (size) => createAndOpen(filename, size),
    createFurtherFile: createAndOpen,
  }
  const existed = driver.kind !== 'protocol' && fileExists(layer, filename)
  try {
    try {
      await module.create(context)
    } finally {
      for (const node of opened) {
        await layer.unref(node)
      }
    }
  } catch (error) {
    if (driver.kind !== 'protocol' && !existed) {
      removeFile(layer, filename)
    }
    for (const name of created) {
      removeFile(layer, name)
    }
    if (isBlockError(error) && error.message === strerror(error.code)) {
      throw blockError(error.code, `Could not create image: ${error.message}`, { cause: error })
    }
    throw error
  }
}

/** Creates the file below an image through its protocol driver (seed row 21). */
export async function createFile(layer: BlockLayer, filename: string, values: CreateValues): Promise<void> {
  const protocol = findProtocol(layer, filename, true)
  if (protocol.createOptions === undefined) {
    throw blockError('ENOTSUP', `Driver '${protocol.name}' does not support image creation`)
  }
  await createWithDriver(layer, protocol, filename, pick(values, protocol.createOptions))
}

function fileExists(layer: BlockLayer, filename: string): boolean {
  const path = localPath(layer, filename)
  return path !== undefined && layer.host.files.stat(path) !== undefined
}

/** The path on the host that `filename` names through the `file` driver, if it does. */
export function localPath(layer: BlockLayer, filename: string): string | undefined {
  let protocol: BlockDriver
  try {
    protocol = findProtocol(layer, filename, true)
  } catch (error) {
    codeOf(error)
    return undefined
  }
  if (protocol.name !== 'file') {
    return undefined
  }
  return protocol.parseFilename?.(filename).getString('filename') ?? filename
}

function removeFile(layer: BlockLayer, filename: string): void {
  const path = localPath(layer, filename)
  if (path === undefined || layer.host.files.stat(path)?.kind !== 'regular') {
    return
  }
  layer.host.files.unlink(path)
}
