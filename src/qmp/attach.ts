import { blockError } from '../errors/index.js'
import type { CharDevice } from './chardev/index.js'
import type { QmpMonitor } from './monitor.js'
import type { QmpSession } from './session.js'

/**
 * Puts a monitor behind a character device: who connects there is greeted and served.
 *
 * @throws BlockError `Device '%s' is in use`
 */
export function attachMonitor(
  monitor: QmpMonitor,
  device: CharDevice,
  options: { readonly pretty?: boolean | undefined } = {},
): void {
  if (device.frontend !== undefined) {
    throw blockError('EBUSY', `Device '${device.label}' is in use`)
  }
  const encoder = new TextEncoder()
  let session: QmpSession | undefined
  device.attach({
    opened: () => {
      session = monitor.connect(
        {
          write: (text) => device.write(encoder.encode(text)),
          get backlog() {
            return device.backlog
          },
          setReading: (wanted) => {
            device.reading = wanted
          },
          drop: () => device.drop(),
        },
        { pretty: options.pretty ?? false },
      )
    },
    data: (bytes, offset, length) => session?.feed(bytes, offset, length),
    closed: () => {
      session?.close()
      session = undefined
    },
  })
}
