import type { HostSocket } from './sockets.js'

/** What a kernel's NBD device is told of the export behind it. */
export interface NbdDeviceGeometry {
  /** Size of the export, bytes. */
  readonly size: number
  /** Block size, bytes, a power of two from 512 on; what does not fill the last block is not seen. */
  readonly blockSize: number
  /** `TransmissionFlags` of the protocol. */
  readonly flags: number
}

/** A `/dev/nbdN` that is open: the kernel's NBD client. */
export interface NbdDevice {
  /**
   * Hands over a connection on which an export was chosen and nothing is in flight. The kernel speaks on it from now
   * on, with simple replies; the socket still belongs to the caller, who keeps it until {@link run} is done.
   *
   * @throws BlockError with QEMU's text
   */
  attach(socket: HostSocket, geometry: NbdDeviceGeometry): void
  /**
   * Serves the device until it is disconnected or the connection ends. Nothing may open the device on this
   * thread meanwhile: the kernel would wait for answers that only this thread can give.
   *
   * @throws BlockError when it ends otherwise
   */
  run(): Promise<void>
  /** Ends what another process serves, too. What is wrong with that is of no interest, as with QEMU. */
  disconnect(): void
  /** Closes the device; idempotent. */
  close(): void
}

/** The kernel's NBD client. */
export interface HostNbdDevices {
  /** @throws BlockError with the errno's text alone */
  open(path: string): Promise<NbdDevice>
}
