import { ioError } from '../errors/index.js'
import type { Wait } from '../sched/index.js'
import type { Backend } from './backend.js'

/** What a device model lets its backend call; all of it is optional. */
export interface DeviceOps {
  /** The medium is there (`load`), or gone. Present exactly if the device has removable media. May throw for `load`. */
  changeMedia?(load: boolean): void
  /** Someone wants the medium out; with `force` it is about to be taken without asking. */
  ejectRequest?(force: boolean): void
  /** Present if the device has a tray. */
  isTrayOpen?(): boolean
  isMediumLocked?(): boolean
  /** The medium's length has changed. */
  resize?(): void
  /** The device must start no requests until `drainedEnd`. */
  drainedBegin?(): void
  drainedEnd?(): void
  /** Between the two: settles when the device has no request of its own under way. */
  drainedPoll?(): Wait
}

/** A device model, or whatever else uses a backend alone. */
export interface DeviceModel {
  /** Id or path by which users name it; empty if they cannot. */
  readonly id: string
  readonly ops: DeviceOps
}

/** The device model attached to a backend, and the medium as it sees it. */
export class DeviceSlot {
  readonly #backend: Backend
  #model: DeviceModel | undefined = undefined

  constructor(backend: Backend) {
    this.#backend = backend
  }

  get model(): DeviceModel | undefined {
    return this.#model
  }

  get id(): string {
    return this.#model?.id ?? ''
  }

  get #ops(): DeviceOps {
    return this.#model?.ops ?? {}
  }

  /** Attaches a device model. @throws BlockError EBUSY if there is one */
  attach(model: DeviceModel): void {
    if (this.#model !== undefined) {
      throw ioError('EBUSY')
    }
    this.#model = model
    this.#backend.errors.resetStatus()
    this.#backend.deviceChanged()
    if (this.#backend.isHeld) {
      model.ops.drainedBegin?.()
    }
  }

  detach(model: DeviceModel): void {
    if (this.#model !== model) {
      throw new Error('this device model is not attached')
    }
    this.#model = undefined
    this.#backend.guestBlockSize = 512
    this.#backend.deviceChanged()
  }

  /** Whether media can be changed while in use; true without a device model. */
  get hasRemovableMedia(): boolean {
    return this.#model === undefined || this.#ops.changeMedia !== undefined
  }

  get hasTray(): boolean {
    return this.#ops.isTrayOpen !== undefined
  }

  get isTrayOpen(): boolean {
    return this.#ops.isTrayOpen?.() ?? false
  }

  get isMediumLocked(): boolean {
    return this.#ops.isMediumLocked?.() ?? false
  }

  ejectRequest(force: boolean): void {
    this.#ops.ejectRequest?.(force)
  }

  /** Tells the device that the medium came or went, and everybody else if its tray moved. */
  changeMedia(load: boolean): void {
    const ops = this.#ops
    if (ops.changeMedia === undefined) {
      return
    }
    const before = this.isTrayOpen
    ops.changeMedia(load)
    const after = this.isTrayOpen
    if (before !== after) {
      this.trayMoved(after)
    }
  }

  /** Sends DEVICE_TRAY_MOVED, unless nobody could tell which device it was. */
  trayMoved(open: boolean): void {
    const { name, layer } = this.#backend
    if (name !== '' || this.id !== '') {
      layer.events.emit('DEVICE_TRAY_MOVED', { device: name, id: this.id, 'tray-open': open })
    }
  }

  resized(): void {
    this.#ops.resize?.()
  }

  drainedBegin(): void {
    this.#ops.drainedBegin?.()
  }

  drainedEnd(): void {
    this.#ops.drainedEnd?.()
  }

  drainedPoll(): Wait {
    return this.#ops.drainedPoll?.()
  }
}
