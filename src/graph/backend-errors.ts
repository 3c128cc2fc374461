import { type ErrnoName, strerror } from '../errors/index.js'
import type { Backend } from './backend.js'

/** What to do when a request fails (QAPI `BlockdevOnError`, without `auto`). */
export type OnError = 'report' | 'ignore' | 'enospc' | 'stop'

/** What is done about one failed request (QAPI `BlockErrorAction`). */
export type ErrorAction = 'report' | 'ignore' | 'stop'

/** QAPI `BlockDeviceIoStatus`. */
export type IoStatus = 'ok' | 'failed' | 'nospace'

/** The error policy of a backend, and whether an error stopped it. */
export class ErrorPolicy {
  readonly #backend: Backend
  onReadError: OnError = 'report'
  onWriteError: OnError = 'enospc'
  #statusEnabled = false
  #status: IoStatus = 'ok'

  constructor(backend: Backend) {
    this.#backend = backend
  }

  /** Lets {@link status} follow errors that stop the device, from `ok` on. */
  enableStatus(): void {
    this.#statusEnabled = true
    this.#status = 'ok'
  }

  disableStatus(): void {
    this.#statusEnabled = false
  }

  /** Whether there is a status: only if some error could stop the device. */
  get statusEnabled(): boolean {
    return (
      this.#statusEnabled &&
      (this.onWriteError === 'enospc' || this.onWriteError === 'stop' || this.onReadError === 'stop')
    )
  }

  get status(): IoStatus {
    return this.#status
  }

  resetStatus(): void {
    if (this.statusEnabled) {
      this.#status = 'ok'
    }
  }

  /** The first error since the last reset counts. */
  setStatus(code: ErrnoName): void {
    if (this.statusEnabled && this.#status === 'ok') {
      this.#status = code === 'ENOSPC' ? 'nospace' : 'failed'
    }
  }

  /** What the policy says about a failed read, or write (everything else). */
  action(isRead: boolean, code: ErrnoName): ErrorAction {
    const policy = isRead ? this.onReadError : this.onWriteError
    return policy === 'enospc' ? (code === 'ENOSPC' ? 'stop' : 'report') : policy
  }

  /** Carries out an action: keeps the status and tells everybody (BLOCK_IO_ERROR). Stopping is the caller's part. */
  report(action: ErrorAction, isRead: boolean, code: ErrnoName): void {
    if (action === 'stop') {
      this.setStatus(code)
    }
    const { name, layer, device, root } = this.#backend
    layer.events.emit('BLOCK_IO_ERROR', {
      'qom-path': device.id,
      device: name,
      ...(root === undefined ? {} : { 'node-name': root.node.name }),
      operation: isRead ? 'read' : 'write',
      action,
      ...(this.statusEnabled ? { nospace: code === 'ENOSPC' } : {}),
      reason: strerror(code),
    })
  }

  /** Both at once: what becomes of a failed request. */
  handle(isRead: boolean, code: ErrnoName): ErrorAction {
    const action = this.action(isRead, code)
    this.report(action, isRead, code)
    return action
  }
}
