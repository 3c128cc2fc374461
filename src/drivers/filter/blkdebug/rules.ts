import { blockError } from '../../../errors/index.js'
import { type DebugEvent, debugEventNames } from '../../../io/index.js'
import type { OptionsOf } from '../../../options/index.js'
import type { Section, Sections } from './config.js'
import type { injectErrorOptions, setStateOptions } from './options.js'

/** Kinds of requests; QAPI's `BlkdebugIOType`. */
export const ioTypes = ['read', 'write', 'write-zeroes', 'discard', 'flush', 'block-status'] as const

export type IoType = (typeof ioTypes)[number]

const bit = (type: IoType): number => 1 << ioTypes.indexOf(type)

/** A rule that names no kind of request means all but block status. */
const defaultMask = bit('read') | bit('write') | bit('write-zeroes') | bit('discard') | bit('flush')

const sectorBytes = 512

/** From its event on, requests fail. */
export interface InjectRule {
  readonly action: 'inject-error'
  /** State in which the rule counts; 0: any. */
  readonly state: number
  /** Errno number; 0: the request goes on. */
  readonly errno: number
  /** Only requests that contain this byte; -1: all. */
  readonly offset: number
  readonly mask: number
  readonly once: boolean
  readonly immediately: boolean
  /** Nanoseconds to wait before the request fails or goes on. */
  readonly delay: number
}

/** Its event leads to another state. */
export interface SetStateRule {
  readonly action: 'set-state'
  readonly state: number
  readonly newState: number
}

/** Its event stops the request, once. */
export interface SuspendRule {
  readonly action: 'suspend'
  readonly state: 0
  readonly tag: string
}

export type Rule = InjectRule | SetStateRule | SuspendRule

export function isDebugEvent(name: string): name is DebugEvent {
  return (debugEventNames as readonly string[]).includes(name)
}

function eventOf(section: Section): DebugEvent {
  const name = section.event
  if (typeof name !== 'string') {
    throw blockError('EINVAL', 'Missing event name for rule')
  }
  if (!isDebugEvent(name)) {
    throw blockError('EINVAL', `invalid parameter value: ${name}`)
  }
  return name
}

function maskOf(type: string | undefined): number {
  if (type === undefined) {
    return defaultMask
  }
  if (!(ioTypes as readonly string[]).includes(type)) {
    throw blockError('EINVAL', `invalid parameter value: ${type}`)
  }
  return bit(type as IoType)
}

/** Rules by event, and those that count at present. */
export class Rules {
  /** The newest rule of an event comes first. */
  readonly #byEvent = new Map<DebugEvent, Rule[]>()
  /** What the last event with such rules switched on, in the order of the configuration. */
  #active: InjectRule[] = []
  #state = 1

  add(event: DebugEvent, rule: Rule): void {
    const rules = this.#byEvent.get(event)
    if (rules === undefined) {
      this.#byEvent.set(event, [rule])
    } else {
      rules.unshift(rule)
    }
  }

  /** @throws BlockError EINVAL for a section without a known event */
  addSections(sections: Sections): void {
    for (const section of sections['inject-error']) {
      const given: OptionsOf<typeof injectErrorOptions> = section
      const event = eventOf(section)
      const sector = given.sector ?? -1
      this.add(event, {
        action: 'inject-error',
        state: given.state ?? 0,
        errno: given.errno ?? 5,
        offset: sector === -1 ? -1 : sector * sectorBytes,
        mask: maskOf(given.iotype),
        once: given.once ?? false,
        immediately: given.immediately ?? false,
        delay: given['delay-ns'] ?? 0,
      })
    }
    for (const section of sections['set-state']) {
      const given: OptionsOf<typeof setStateOptions> = section
      this.add(eventOf(section), {
        action: 'set-state',
        state: given.state ?? 0,
        newState: given.new_state ?? 0,
      })
    }
  }

  /** Forgets the breakpoints of `tag`; whether there were any. */
  removeBreakpoints(tag: string): boolean {
    let found = false
    for (const [event, rules] of this.#byEvent) {
      const rest = rules.filter((rule) => rule.action !== 'suspend' || rule.tag !== tag)
      found ||= rest.length < rules.length
      this.#byEvent.set(event, rest)
    }
    return found
  }

  /** Takes the actions of `event`. Returns the tags under which the request must stop, if any. */
  enter(event: DebugEvent): string[] | undefined {
    const rules = this.#byEvent.get(event)
    if (rules === undefined) {
      return undefined
    }
    let newState = this.#state
    let tags: string[] | undefined
    let injected: InjectRule[] | undefined
    for (const rule of [...rules]) {
      if (rule.state !== 0 && rule.state !== this.#state) {
        continue
      }
      switch (rule.action) {
        case 'inject-error':
          injected ??= []
          injected.unshift(rule)
          break
        case 'set-state':
          newState = rule.newState
          break
        case 'suspend':
          tags ??= []
          tags.push(rule.tag)
          this.#remove(rule)
      }
    }
    this.#active = injected ?? this.#active
    this.#state = newState
    return tags
  }

  /** The rule that a request runs into, if any. Rules for one time only are forgotten. */
  find(type: IoType, offset: number, bytes: number): InjectRule | undefined {
    if (this.#active.length === 0) {
      return undefined
    }
    const mask = bit(type)
    const rule = this.#active.find(
      (one) =>
        (one.mask & mask) !== 0 &&
        (one.offset === -1 || (one.offset >= offset && one.offset < offset + bytes)),
    )
    if (rule?.once === true && (rule.errno !== 0 || rule.delay > 0)) {
      this.#active = this.#active.filter((one) => one !== rule)
      this.#remove(rule)
    }
    return rule
  }

  #remove(rule: Rule): void {
    for (const [event, rules] of this.#byEvent) {
      if (rules.includes(rule)) {
        this.#byEvent.set(
          event,
          rules.filter((one) => one !== rule),
        )
      }
    }
  }
}
