import type { Wait } from '../../sched/index.js'

/** Who uses a character device. Methods must not throw. */
export interface CharFrontend {
  /** Somebody is at the other end: from now on there may be data. */
  opened(): void
  /** Data has come; the buffer is the device's again afterwards. */
  data(bytes: Uint8Array, offset: number, length: number): void
  /** Nobody is there any more. */
  closed(): void
}

/** A stream of bytes to somewhere, under a name: QEMU's character device. */
export interface CharDevice {
  readonly label: string
  /** What `query-chardev` calls the other end. */
  readonly filename: string
  /** Whether somebody is at the other end. */
  readonly isOpen: boolean
  readonly frontend: CharFrontend | undefined
  /** Gives the device to its frontend, and tells it if somebody is there already. */
  attach(frontend: CharFrontend): void
  /** The frontend wants data, or not for now. */
  reading: boolean
  /** Bytes that {@link write} still holds. */
  readonly backlog: number
  /** Sends after all other data. A promise: not all is gone. Dropped if nobody is there. */
  write(bytes: Uint8Array): Wait
  /** Hangs up on whoever is there. */
  drop(): void
  /** Ends the device. What was written is sent if it can be. */
  close(): Promise<void>
}
