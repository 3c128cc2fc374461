import { type BlockError, blockError, errnoError, isBlockError, strerror } from '../errors/index.js'
import { defineOptions, OptionDict, parseJsonFilename, takeOptions } from '../options/index.js'
import { openBackingFile } from './backing.js'
import type { BlockChild } from './child.js'
import { type BlockDriver, isProtocolLevel, type OpenContext } from './driver.js'
import { refreshFilename } from './filenames.js'
import { noFlags, type OpenFlags, Role } from './flags.js'
import { installState, refreshLength, refreshLimits } from './geometry.js'
import { inheritOptions } from './inherit.js'
import type { BlockLayer } from './layer.js'
import { attachChild, closeNode, detachChild } from './lifecycle.js'
import { parseDetectZeroes, parseDiscard } from './modes.js'
import { BlockNode } from './node.js'
import { refreshPermissions } from './permissions.js'
import { findImageFormat, findProtocol } from './probe.js'
import { appendTemporarySnapshot } from './temporary-snapshot.js'

/** Options that every node takes (qemu-surface 1.2). */
export const genericOptions = defineOptions({
  'node-name': { type: 'string', help: 'Node name of the block device node' },
  driver: { type: 'string', help: 'Block driver to use for the node' },
  'cache.direct': { type: 'bool', help: 'Bypass software writeback cache on the host' },
  'cache.no-flush': { type: 'bool', help: 'Ignore flush requests' },
  'read-only': { type: 'bool', help: 'Node is opened in read-only mode' },
  'auto-read-only': { type: 'bool', help: 'Node can become read-only if opening read-write fails' },
  'detect-zeroes': { type: 'string', help: 'try to optimize zero writes (off, on, unmap)' },
  'force-share': { type: 'bool', help: 'always accept other writers (default: off)' },
  active: { type: 'bool', help: 'Node is activated (default: on)' },
  discard: { type: 'string', help: 'discard operation (ignore/off, unmap/on)' },
})

export interface OpenRequest {
  readonly filename: string | undefined
  /** Consumed. */
  readonly options: OptionDict
  readonly flags: Partial<OpenFlags>
  /** Node that the result will be a child of: what is not given is inherited from it by `role`. */
  readonly parent?: BlockNode
  readonly role?: number
  readonly parentIsFormat?: boolean
  /** Node name to refer to instead of opening anything. */
  readonly reference?: string
  /** Whether `filename` may be a `json:` name or carry a protocol prefix. Names from inside images may not be json. */
  readonly parseFilename?: boolean
}

function isOff(value: unknown): boolean {
  return value === false || value === 'off' || value === 'no' || value === 'false' || value === 'n'
}

function isOn(value: unknown): boolean {
  return value === true || value === 'on' || value === 'yes' || value === 'true' || value === 'y'
}

/** Opens a node and everything below it; the caller owns one reference (seed L1378-1603). */
export async function openInherit(layer: BlockLayer, request: OpenRequest): Promise<BlockNode> {
  const { options, parent } = request
  if (request.reference !== undefined) {
    if (request.filename !== undefined || options.size > 0) {
      throw blockError(
        'EINVAL',
        'Cannot reference an existing block device with additional options or a new filename',
      )
    }
    return layer.ref(layer.lookup(request.reference, request.reference))
  }
  let filename = request.filename
  if (filename?.startsWith('json:') && request.parseFilename !== false) {
    // Options of the name give way to options given directly, and count as explicit.
    options.join(parseJsonFilename(filename), false)
    filename = undefined
  }
  const explicit = options.clone()
  let flags: OpenFlags =
    parent === undefined
      ? { ...noFlags, inactive: layer.incoming, ...request.flags }
      : {
          ...inheritOptions(
            request.role ?? 0,
            request.parentIsFormat ?? parent.driver?.kind === 'format',
            parent.flags,
            parent.options,
            options,
          ),
          ...request.flags,
        }
  flags = fillOptions(layer, options, filename, flags, request.parseFilename !== false)
  if (isOn(options.get('read-only'))) {
    flags.write = false
  } else {
    flags.write = true
    flags.allowWrite = true
  }
  if (isOff(options.get('active'))) {
    flags.inactive = true
  }
  const snapshotFlags = flags.snapshot ? { ...flags } : undefined
  let snapshotOptions: OptionDict | undefined
  if (snapshotFlags !== undefined) {
    snapshotOptions = options.clone()
    // Below the overlay the image is like a backing file.
    flags.write = false
    flags.snapshot = false
    options.set('read-only', true)
  }
  const node = new BlockNode(layer, options.clone(), explicit)
  node.flags = flags
  node.inheritsFrom = parent
  layer.nodes.add(node)
  try {
    await openNode(node, options, filename)
  } catch (error) {
    await closeNode(node).catch(() => undefined)
    throw error
  }
  if (snapshotFlags === undefined || snapshotOptions === undefined) {
    return node
  }
  try {
    return await appendTemporarySnapshot(node, snapshotFlags, snapshotOptions)
  } catch (error) {
    await layer.unref(node).catch(() => undefined)
    throw error
  }
}

/**
 * A node of `driver`, which need not be one of the layer's: operations put nodes of their own into the
 * graph. It has no children yet. The caller owns one reference.
 *
 * @throws BlockError if the name is malformed or taken
 */
export async function openWithDriver(
  layer: BlockLayer,
  driver: BlockDriver,
  nodeName: string | undefined,
  flags: Partial<OpenFlags>,
): Promise<BlockNode> {
  const described = new OptionDict([['driver', driver.name]])
  const node = new BlockNode(layer, described, described.clone())
  node.flags = { ...noFlags, allowWrite: flags.write === true, ...flags }
  layer.nodes.add(node)
  try {
    await openCommon(
      node,
      driver,
      new OptionDict(nodeName === undefined ? [] : [['node-name', nodeName]]),
      undefined,
    )
  } catch (error) {
    await closeNode(node).catch(() => undefined)
    throw error
  }
  return node
}

/** Works out driver and file name from each other (seed L988-1087). */
function fillOptions(
  layer: BlockLayer,
  options: OptionDict,
  filename: string | undefined,
  given: OpenFlags,
  allowPrefix: boolean,
): OpenFlags {
  const flags = { ...given }
  let driver: BlockDriver | undefined
  const driverName = options.getString('driver')
  if (driverName !== undefined) {
    driver = layer.findFormat(driverName)
    if (driver === undefined) {
      throw blockError('ENOENT', `Unknown driver '${driverName}'`)
    }
    flags.protocol = isProtocolLevel(driver)
  }
  options.setDefault('cache.direct', false)
  options.setDefault('cache.no-flush', false)
  options.setDefault('read-only', !flags.write)
  options.setDefault('auto-read-only', false)
  let positional = false
  if (flags.protocol && filename !== undefined) {
    if (options.has('filename')) {
      throw blockError('EINVAL', "Can't specify 'file' and 'filename' options at the same time")
    }
    options.set('filename', filename)
    positional = allowPrefix
  }
  const name = options.getString('filename')
  if (driver === undefined && flags.protocol) {
    if (name === undefined) {
      throw blockError('EINVAL', 'Must specify either driver or file')
    }
    driver = findProtocol(layer, name, positional)
    options.set('driver', driver.name)
  }
  if (positional && driver?.parseFilename !== undefined && name !== undefined) {
    const parsed = driver.parseFilename(name)
    options.delete('filename')
    options.join(parsed, true)
    if (driver.needsFilename !== true) {
      options.delete('filename')
    }
  }
  return flags
}

async function openNode(node: BlockNode, options: OptionDict, filename: string | undefined): Promise<void> {
  const layer = node.layer
  const flags = node.flags
  const driverName = options.getString('driver')
  let driver: BlockDriver | undefined
  if (driverName !== undefined) {
    driver = layer.findFormat(driverName)
    if (driver === undefined) {
      throw blockError('EINVAL', `Unknown driver '${driverName}'`)
    }
  }
  const backing = options.get('backing')
  if (backing === null || backing === '') {
    if (backing === '') {
      layer.host.warn('warning: Use of "backing": "" is deprecated; use "backing": null instead')
    }
    flags.noBacking = true
    for (const dict of [options, node.options, node.explicitOptions]) {
      dict.delete('backing')
    }
  }
  // The file is opened before the format is known: probing needs it, and the driver gets it as it is.
  let file: BlockNode | undefined
  if (!flags.protocol) {
    file = await openFile(node, options, driver, filename)
  }
  try {
    if (driver === undefined) {
      if (file === undefined) {
        throw blockError('EINVAL', 'Must specify either driver or file')
      }
      driver = await findImageFormat(layer, file, filename)
      node.probed = true
      node.options.set('driver', driver.name)
      options.set('driver', driver.name)
    }
    await openCommon(node, driver, options, file)
  } finally {
    // The edge from the node, if the driver kept the file, has its own reference.
    await layer.unref(file)
  }
  if (!flags.noBacking) {
    await openBackingFile(node, options)
  }
  // Children's options are the children's business from here on.
  for (const child of node.children) {
    for (const dict of [options, node.options, node.explicitOptions]) {
      dict.delete(child.name)
      dict.takeSubtree(`${child.name}.`)
    }
  }
  const [left] = options.keys()
  if (left !== undefined) {
    throw blockError(
      'EINVAL',
      flags.protocol
        ? `Block protocol '${driver.name}' doesn't support the option '${left}'`
        : `Block format '${driver.name}' does not support the option '${left}'`,
    )
  }
  refreshFilename(node)
}

/** Role of the `file` child that a driver opens by default. */
function fileRole(driver: BlockDriver | undefined, options: OptionDict): number {
  const usual = driver?.kind === 'filter' ? Role.filtered | Role.primary : Role.image
  return driver?.fileRole?.(options) ?? usual
}

async function openFile(
  node: BlockNode,
  options: OptionDict,
  driver: BlockDriver | undefined,
  filename: string | undefined,
): Promise<BlockNode | undefined> {
  return await openChildNode(node, options, 'file', {
    role: fileRole(driver, options),
    // A filter's file may be any format; everything else sits on a protocol.
    parentIsFormat: driver?.kind !== 'filter',
    filename,
  })
}

interface ChildRequest {
  readonly role: number
  readonly parentIsFormat: boolean
  readonly filename?: string | undefined
}

/** Takes `key` and `key.*` out of `options` and opens what they describe; undefined if nothing does (seed row 36). */
async function openChildNode(
  node: BlockNode,
  options: OptionDict,
  key: string,
  request: ChildRequest,
): Promise<BlockNode | undefined> {
  const sub = options.takeSubtree(`${key}.`)
  const reference = options.take(key)
  if (sub.size === 0 && request.filename === undefined && typeof reference !== 'string') {
    return undefined
  }
  if (typeof reference === 'string') {
    return await openInherit(node.layer, { filename: request.filename, options: sub, flags: {}, reference })
  }
  return await openInherit(node.layer, {
    filename: request.filename,
    options: sub,
    flags: {},
    parent: node,
    role: request.role,
    parentIsFormat: request.parentIsFormat,
  })
}

async function openCommon(
  node: BlockNode,
  driver: BlockDriver,
  options: OptionDict,
  file: BlockNode | undefined,
): Promise<void> {
  const layer = node.layer
  const flags = node.flags
  const generic = takeOptions(options, genericOptions)
  node.forceShare = generic['force-share'] ?? false
  if (node.forceShare && flags.write) {
    throw blockError('EINVAL', 'force-share=on can only be used with read-only images')
  }
  const filename = file !== undefined ? file.filename : options.getString('filename')
  if (driver.needsFilename === true && (filename === undefined || filename === '')) {
    throw blockError('EINVAL', `The '${driver.name}' block driver requires a file name`)
  }
  node.readOnly = !flags.write || flags.inactive
  if (!layer.isWhitelisted(driver, node.readOnly)) {
    const readOnlyWouldDo = !node.readOnly && layer.isWhitelisted(driver, true)
    if (readOnlyWouldDo && generic['auto-read-only'] === true) {
      node.readOnly = true
      flags.write = false
    } else {
      throw blockError(
        'ENOTSUP',
        readOnlyWouldDo
          ? `Driver '${driver.name}' can only be used for read-only devices`
          : `Driver '${driver.name}' is not whitelisted`,
      )
    }
  }
  if (flags.copyOnRead && node.readOnly) {
    throw blockError('EINVAL', "Can't use copy-on-read on read-only device")
  }
  node.copyOnRead = flags.copyOnRead ? 1 : 0
  node.unmapAllowed = generic.discard === undefined ? flags.unmap : parseDiscard(generic.discard)
  flags.unmap = node.unmapAllowed
  if (generic['detect-zeroes'] !== undefined) {
    node.detectZeroes = parseDetectZeroes(generic['detect-zeroes'], node.unmapAllowed)
  }
  node.noFlush = generic['cache.no-flush'] ?? false
  node.filename = filename ?? ''
  node.exactFilename = node.filename
  layer.names.assign(node, generic['node-name'])
  await openDriver(node, driver, options, file)
  refreshLength(node)
  refreshLimits(node)
}

function missingChild(key: string): BlockError {
  return blockError('EINVAL', `A block device must be specified for "${key}"`)
}

async function openDriver(
  node: BlockNode,
  driver: BlockDriver,
  options: OptionDict,
  file: BlockNode | undefined,
): Promise<void> {
  const layer = node.layer
  node.driver = driver
  node.supportsBacking = driver.supportsBacking ?? false
  node.isProtocol = driver.kind === 'protocol'
  if (!isProtocolLevel(driver) && node.flags.protocol) {
    throw blockError('EINVAL', `Can't use '${driver.name}' as a block driver for the protocol level`)
  }
  let fileEdge: BlockChild | undefined
  if (file !== undefined) {
    fileEdge = await attachChild(node, file, 'file', fileRole(driver, options))
  }
  const context: OpenContext = {
    layer,
    host: layer.host,
    node,
    options,
    flags: node.flags,
    filename: node.filename === '' ? undefined : node.filename,
    get file() {
      if (fileEdge === undefined) {
        throw blockError('EINVAL', 'A block device must be specified for "file"')
      }
      return fileEdge
    },
    openChild: async (key, role, optional) => {
      const child = await openChildNode(node, options, key, {
        role,
        parentIsFormat: driver.kind === 'format' && driver.composite !== true,
      })
      if (child === undefined) {
        if (optional === true) {
          return undefined
        }
        throw missingChild(key)
      }
      return await attachOwned(node, child, key, role)
    },
    openNamedChild: async (key, role, name) => {
      const child = await openChildNode(node, options, key, {
        role,
        parentIsFormat: driver.kind === 'format' && driver.composite !== true,
        filename: name,
      })
      if (child === undefined) {
        throw missingChild(key)
      }
      return await attachOwned(node, child, key, role)
    },
    openImplicitChild: async (key, role, name) => {
      await layer.implicitFiles({ parent: node, key, filename: name })
      const sub = options.takeSubtree(`${key}.`)
      const child = await openInherit(layer, {
        filename: name,
        options: sub,
        flags: {},
        parent: node,
        role,
        parseFilename: false,
      })
      return await attachOwned(node, child, key, role)
    },
  }
  const module = await layer.loadDriver(driver)
  try {
    const state = await module.open(context)
    installState(node, state)
    node.backingFile = state.backingFile ?? ''
    node.backingFormat = state.backingFormat ?? ''
    node.autoBackingFile = node.backingFile
    if (state.childPermissions !== undefined) {
      // Children were attached when the driver could not say yet what it needs of them.
      await refreshPermissions([node])
    }
  } catch (error) {
    node.driver = undefined
    const opened = node.state
    node.state = undefined
    await opened?.close()
    node.dirtyBitmaps.releaseNamed()
    for (const child of [...node.children]) {
      await detachChild(child)
    }
    if (isBlockError(error) && error.message === strerror(error.code)) {
      throw errnoError(
        error.code,
        node.filename === '' ? 'Could not open image' : `Could not open '${node.filename}'`,
      )
    }
    throw error
  }
}

/** Attaches a child whose reference the caller hands over. */
async function attachOwned(
  node: BlockNode,
  child: BlockNode,
  key: string,
  role: number,
): Promise<BlockChild> {
  try {
    return await attachChild(node, child, key, role)
  } finally {
    await node.layer.unref(child)
  }
}
