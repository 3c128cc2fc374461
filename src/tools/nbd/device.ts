import { blockError, isBlockError, strerror } from '../../errors/index.js'
import type { Host, HostNbdDevices, NbdDevice, SocketAddress } from '../../host/index.js'
import { connectExport } from '../../nbd/index.js'
import type { ToolContext } from '../context.js'

/** Sectors of the kernel, bytes. */
const sectorBytes = 512

/** Where the server of a device listens unless told otherwise: others look for it there. */
export function deviceSocket(device: string): SocketAddress {
  return { type: 'unix', path: `/var/lock/qemu-nbd-${device.slice(device.lastIndexOf('/') + 1)}` }
}

function devicesOf(host: Host): HostNbdDevices {
  if (host.nbdDevices === undefined) {
    throw blockError('ENOTSUP', 'Kernel /dev/nbdN support not available')
  }
  return host.nbdDevices
}

async function open(devices: HostNbdDevices, device: string, what: string): Promise<NbdDevice> {
  try {
    return await devices.open(device)
  } catch (error) {
    if (!isBlockError(error) || error.message !== strerror(error.code)) {
      throw error
    }
    throw blockError(error.code, `${what} ${device}: ${error.message}`, { cause: error })
  }
}

/** `-d`. @throws BlockError with QEMU's text */
export async function disconnectDevice(device: string, { stdout }: ToolContext, host: Host): Promise<void> {
  const opened = await open(devicesOf(host), device, 'Cannot open')
  opened.disconnect()
  opened.close()
  stdout(`${device} disconnected\n`)
}

/** An image that the kernel shows as a block device. */
export interface ConnectedDevice {
  /** Settles when the device is disconnected or its server gone. @throws BlockError why it failed otherwise */
  readonly done: Promise<void>
}

/**
 * `-c`: connects to the server at `address`, which runs in this process, and hands the connection to the
 * kernel. The image is there as `device` when the promise resolves, until the server is closed.
 *
 * @throws BlockError with QEMU's text
 */
export async function connectDevice(
  device: string,
  address: SocketAddress,
  host: Host,
): Promise<ConnectedDevice> {
  const devices = devicesOf(host)
  if (host.sockets === undefined) {
    throw blockError('ENOTSUP', 'Sockets are not available here')
  }
  const socket = await host.sockets.connect(address)
  const { info } = await connectExport(socket, { name: '', context: '', simple: true })
  try {
    const opened = await open(devices, device, 'Failed to open')
    try {
      const { size, flags, minimumBlock } = info
      opened.attach(socket, { size, flags, blockSize: Math.max(sectorBytes, minimumBlock) })
      return {
        done: opened.run().finally(() => {
          opened.close()
          socket.destroy()
        }),
      }
    } catch (error) {
      opened.close()
      throw error
    }
  } catch (error) {
    socket.destroy()
    throw error
  }
}
