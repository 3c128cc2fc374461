import type { OptionTree } from '../options/index.js'
import type { Backend } from './backend.js'

/** The device's own part of QAPI's `BlockInfo`; what is `inserted` is the image's. */
export function deviceInfo(backend: Backend): OptionTree {
  const { device, errors } = backend
  return {
    device: backend.name,
    ...(device.id === '' ? {} : { qdev: device.id }),
    type: 'unknown',
    removable: device.hasRemovableMedia,
    locked: device.isMediumLocked,
    ...(device.hasTray ? { tray_open: device.isTrayOpen } : {}),
    ...(errors.statusEnabled ? { 'io-status': errors.status } : {}),
  }
}
