import { blockError } from '../errors/index.js'
import {
  ThrottleGroup,
  type ThrottleLimits,
  type ThrottleMember,
  throttleLimits,
  throttleValueNames,
} from '../io/index.js'
import { type OptionDict, typeOption } from '../options/index.js'
import { monotonicClock } from '../sched/index.js'
import type { BlockLayer } from './layer.js'

/** The throttle groups of a layer: those that the user made as objects, and those that came with their first member. */
export class ThrottleGroups {
  readonly #layer: BlockLayer
  /** Live as long as they have members. */
  readonly #implicit = new Map<string, ThrottleGroup>()

  constructor(layer: BlockLayer) {
    this.#layer = layer
  }

  find(name: string): ThrottleGroup | undefined {
    const object = this.#layer.objects.find(name)
    return object instanceof ThrottleGroup ? object : this.#implicit.get(name)
  }

  /**
   * Makes a group that lives until it is removed from the layer's objects.
   *
   * @throws BlockError EEXIST if there is an object or a group of this name; EINVAL for limits that make no sense
   */
  add(id: string, values: Readonly<Record<string, number>>): ThrottleGroup {
    const { objects } = this.#layer
    if (objects.find(id) === undefined) {
      if (this.#implicit.has(id)) {
        throw blockError('EEXIST', 'A group with this name already exists')
      }
      const group = this.#make(id, throttleLimits(values))
      objects.add(group)
      return group
    }
    // The name is looked at before the limits are.
    objects.add({ type: 'throttle-group', id })
    throw new Error('two objects of one name')
  }

  /** A new member of the group called `name`, which is made without limits if there is none. */
  join(name: string): ThrottleMember {
    let group = this.find(name)
    if (group === undefined) {
      group = this.#make(name, throttleLimits({}))
      this.#implicit.set(name, group)
    }
    return group.join()
  }

  /** Ends a membership; what waits goes at once. */
  leave(member: ThrottleMember): void {
    member.leave()
    const { group } = member
    if (!group.inUse && this.#implicit.get(group.id) === group) {
      this.#implicit.delete(group.id)
    }
  }

  #make(id: string, limits: ThrottleLimits): ThrottleGroup {
    return new ThrottleGroup(id, limits, this.#layer.host.clock ?? monotonicClock)
  }
}

/** What `throttling.*` options of a device ask for. */
export interface DeviceThrottling {
  /** Name of the group; undefined: one of the device's own name. */
  readonly group: string | undefined
  readonly limits: ThrottleLimits
}

/** Takes `throttling.*` out of `options`. @throws BlockError EINVAL with QEMU's text */
export function takeThrottling(options: OptionDict): DeviceThrottling {
  const values: Record<string, number> = {}
  for (const name of throttleValueNames) {
    const value = options.take(`throttling.${name}`)
    if (value !== undefined && value !== null) {
      values[name] = Number(typeOption(`throttling.${name}`, { type: 'number' }, value))
    }
  }
  const group = options.take('throttling.group')
  return { group: typeof group === 'string' ? group : undefined, limits: throttleLimits(values) }
}
