import { blockError } from '../errors/index.js'

/** An object that the user made and that nodes refer to by id (`--object`, `object-add`). */
export interface UserObject {
  /** QOM type, such as `secret` or `throttle-group`. */
  readonly type: string
  readonly id: string
  /** Whether nodes depend on it, so that it cannot be removed. */
  readonly inUse?: boolean
  /** Wipes what is secret; called when the object is removed and when the layer closes. */
  dispose?(): void
}

/** The objects of one layer, by id. */
export class UserObjects {
  readonly #objects = new Map<string, UserObject>()

  /** @throws BlockError EEXIST */
  add(object: UserObject): void {
    if (this.#objects.has(object.id)) {
      throw blockError(
        'EEXIST',
        `attempt to add duplicate property '${object.id}' to object (type 'container')`,
      )
    }
    this.#objects.set(object.id, object)
  }

  find(id: string): UserObject | undefined {
    return this.#objects.get(id)
  }

  /** In the order in which they were made. */
  list(): UserObject[] {
    return [...this.#objects.values()]
  }

  /** @throws BlockError ENOENT */
  remove(id: string): void {
    const object = this.#objects.get(id)
    if (object === undefined) {
      throw blockError('ENOENT', `object '${id}' not found`)
    }
    if (object.inUse === true) {
      throw blockError('EBUSY', `object '${id}' is in use, can not be deleted`)
    }
    this.#objects.delete(id)
    object.dispose?.()
  }

  disposeAll(): void {
    for (const [id, object] of this.#objects) {
      this.#objects.delete(id)
      object.dispose?.()
    }
  }
}
