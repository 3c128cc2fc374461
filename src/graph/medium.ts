import { blockError, isBlockError } from '../errors/index.js'
import type { OptionTree } from '../options/index.js'
import type { Wait } from '../sched/index.js'
import { Backend } from './backend.js'
import { drain } from './drain.js'
import { Perm } from './flags.js'
import type { BlockLayer } from './layer.js'
import type { BlockNode } from './node.js'
import { checkNotBlocked, deviceName, isBlocked } from './op-blockers.js'
import { truncateNode } from './resize.js'

/** How a user names a device: the backend's name, or the id of the device model on it. */
export type DeviceReference =
  | { readonly device: string; readonly id?: undefined }
  | { readonly id: string; readonly device?: undefined }

/** Whether a new medium is writable: as the last one, or as said. */
export type ChangeReadOnlyMode = 'retain' | 'read-only' | 'read-write'

/**
 * Whether the medium was changed since this was last asked (seed row 112); undefined: the driver
 * cannot tell, and most cannot.
 */
export function mediumChanged(node: BlockNode): boolean | undefined {
  return node.state?.medium?.changed?.()
}

/**
 * Moves the tray of the node's own drive, and tells everybody if the node belongs to a device with a
 * name (seed row 112). A {@link Backend} does the same for the device on it.
 */
export function ejectMedium(node: BlockNode, open: boolean): Wait {
  const moved = (): void => {
    const device = deviceName(node)
    if (device !== '') {
      node.layer.events.emit('DEVICE_TRAY_MOVED', { device, id: '', 'tray-open': open })
    }
  }
  const wait = node.state?.medium?.eject?.(open)
  if (wait !== undefined) {
    return wait.then(moved)
  }
  moved()
  return undefined
}

/** Locks the medium in its drive, so that its button does nothing, or unlocks it (seed row 112). */
export function lockMedium(node: BlockNode, locked: boolean): Wait {
  return node.state?.medium?.lock?.(locked)
}

function nameOf(reference: DeviceReference): string {
  return reference.id ?? reference.device
}

/** @throws BlockError ENODEV (class DeviceNotFound) */
export function findDevice(layer: BlockLayer, reference: DeviceReference): Backend {
  const name = nameOf(reference)
  const backend =
    reference.id === undefined
      ? layer.findBackend(name)
      : [...layer.backends].find(({ device }) => device.model !== undefined && device.id === name)
  if (backend === undefined) {
    throw blockError('ENODEV', `Device '${name}' not found`, { errorClass: 'DeviceNotFound' })
  }
  return backend
}

/** The tray is locked and nobody forced it: the guest was asked to open it. */
const lockedCode = 'EAGAIN'

/** Opens the tray; false: the device has none. */
function tryOpenTray(backend: Backend, name: string, force: boolean): boolean {
  const { device } = backend
  if (!device.hasRemovableMedia) {
    throw blockError('ENOTSUP', `Device '${name}' is not removable`)
  }
  if (!device.hasTray) {
    return false
  }
  if (device.isTrayOpen) {
    return true
  }
  const locked = device.isMediumLocked
  if (locked) {
    device.ejectRequest(force)
  }
  if (locked && !force) {
    throw blockError(
      lockedCode,
      `Device '${name}' is locked and force was not specified, wait for tray to open and try again`,
    )
  }
  device.changeMedia(false)
  return true
}

/**
 * Opens the tray of a device. A locked tray is left to the guest to open, unless `force`; a device
 * without a tray is left alone.
 *
 * @throws BlockError ENODEV, ENOTSUP
 */
export function openTray(layer: BlockLayer, reference: DeviceReference, force = false): void {
  try {
    tryOpenTray(findDevice(layer, reference), nameOf(reference), force)
  } catch (error) {
    if (!isBlockError(error) || error.code !== lockedCode) {
      throw error
    }
  }
}

/** Closes the tray of a device. Does nothing for one without a tray. @throws BlockError ENODEV, ENOTSUP */
export function closeTray(layer: BlockLayer, reference: DeviceReference): void {
  const { device } = findDevice(layer, reference)
  if (!device.hasRemovableMedia) {
    throw blockError('ENOTSUP', `Device '${nameOf(reference)}' is not removable`)
  }
  if (device.hasTray && device.isTrayOpen) {
    device.changeMedia(true)
  }
}

/** Takes the medium out of an open tray. Nothing happens if there is none. */
export async function removeMedium(layer: BlockLayer, reference: DeviceReference): Promise<void> {
  const backend = findDevice(layer, reference)
  const { device } = backend
  if (device.model !== undefined && !device.hasRemovableMedia) {
    throw blockError('ENOTSUP', `Device '${nameOf(reference)}' is not removable`)
  }
  if (device.hasTray && !device.isTrayOpen) {
    throw blockError('EBUSY', `Tray of device '${nameOf(reference)}' is not open`)
  }
  if (backend.root === undefined) {
    return
  }
  checkNotBlocked(backend.root.node, 'eject')
  await backend.remove()
  if (!device.hasTray) {
    // Without a tray there is nothing to close later that would tell the guest.
    device.changeMedia(false)
  }
}

async function insert(backend: Backend, node: BlockNode): Promise<void> {
  const { device } = backend
  if (device.model !== undefined && !device.hasRemovableMedia) {
    throw blockError('ENOTSUP', 'Device is not removable')
  }
  if (device.hasTray && !device.isTrayOpen) {
    throw blockError('EBUSY', 'Tray of the device is not open')
  }
  if (backend.root !== undefined) {
    throw blockError('EBUSY', 'There already is a medium in the device')
  }
  await backend.insert(node)
  if (!device.hasTray) {
    try {
      device.changeMedia(true)
    } catch (error) {
      await backend.remove()
      throw error
    }
  }
}

/** Puts the node called `nodeName`, which no device uses yet, into an open tray. */
export async function insertMedium(
  layer: BlockLayer,
  reference: DeviceReference,
  nodeName: string,
): Promise<void> {
  const backend = findDevice(layer, reference)
  const node = layer.findNode(nodeName)
  if (node === undefined) {
    throw blockError('ENOENT', `Node '${nodeName}' not found`)
  }
  if (node.parents.some((edge) => edge.parent.parentNode === undefined)) {
    throw blockError('EBUSY', `Node '${nodeName}' is already in use`)
  }
  await insert(backend, node)
}

/** Opens the tray and takes the medium out. */
export async function ejectDevice(
  layer: BlockLayer,
  reference: DeviceReference,
  force = false,
): Promise<void> {
  tryOpenTray(findDevice(layer, reference), nameOf(reference), force)
  await removeMedium(layer, reference)
}

export interface ChangeMediumOptions {
  readonly format?: string
  readonly readOnly?: ChangeReadOnlyMode
  readonly force?: boolean
}

/** Opens the image `filename`, exchanges the medium for it and closes the tray. */
export async function changeMedium(
  layer: BlockLayer,
  reference: DeviceReference,
  filename: string,
  options: ChangeMediumOptions = {},
): Promise<void> {
  const backend = findDevice(layer, reference)
  const { readOnly = 'retain', format } = options
  const now = backend.root?.node
  const last =
    now === undefined ? backend.lastMedium : { write: now.flags.write, detectZeroes: now.detectZeroes }
  const open: OptionTree = {
    'detect-zeroes': last.detectZeroes === 'off' ? 'off' : 'on',
    ...(format === undefined ? {} : { driver: format }),
  }
  const write = readOnly === 'retain' ? last.write : readOnly === 'read-write'
  const node = await layer.open(filename, open, { write })
  try {
    tryOpenTray(backend, nameOf(reference), options.force ?? false)
    await removeMedium(layer, reference)
    await insert(backend, node)
    closeTray(layer, reference)
  } finally {
    // The device has its own reference now, if it all went well.
    await layer.unref(node)
  }
}

/**
 * `block_resize`: changes the length of the node that a device uses, or that has this name, to
 * `length` bytes while it is in use.
 *
 * @throws BlockError EBUSY if something depends on the length
 */
export async function resizeDevice(
  layer: BlockLayer,
  target: { readonly device?: string; readonly nodeName?: string },
  length: number,
): Promise<void> {
  const node = layer.lookup(target.device, target.nodeName)
  if (length < 0) {
    throw blockError('EINVAL', "Parameter 'size' expects a >0 size")
  }
  if (isBlocked(node, 'resize')) {
    throw blockError('EBUSY', `Device '${target.device ?? target.nodeName}' is in use`)
  }
  const resizer = new Backend(layer, { perm: Perm.resize })
  try {
    await resizer.insert(node)
    const section = await drain([node])
    try {
      await truncateNode(node, length, { exact: false, preallocation: 'off', zero: false })
    } finally {
      section.end()
    }
  } finally {
    await resizer.close()
  }
}
