import { blockError } from '../../../errors/index.js'
import { isWellFormedId } from '../../../graph/index.js'
import { type OptionDict, type OptionSchema, takeOptions, typeOption } from '../../../options/index.js'
import { type SectionName, sectionNames, sectionSchemas } from './options.js'

/** Typed options of one rule. */
export type Section = Readonly<Record<string, string | number | boolean>>

/** The sections of a configuration by name, in the order given. */
export type Sections = Readonly<Record<SectionName, Section[]>>

export function noSections(): Sections {
  return { 'inject-error': [], 'set-state': [] }
}

function isSectionName(name: string): name is SectionName {
  return Object.hasOwn(sectionSchemas, name)
}

/**
 * Reads a configuration in QEMU's syntax into `into`: `[group]` or `[group "id"]` lines, each followed
 * by `name = "value"` lines; comments start with `#` in the first column.
 *
 * @throws BlockError EINVAL
 */
export function parseConfig(text: string, into: Sections): void {
  const ids = new Set<string>()
  let current: { section: Record<string, string | number | boolean>; schema: OptionSchema } | undefined
  for (const line of text.split(/(?<=\n)/)) {
    if (line === '\n' || line.startsWith('#')) {
      continue
    }
    const named = /^\[\s*(\S{1,63})\s*"([^"]{1,63})"?/.exec(line)
    const plain = named ?? /^\[([^\]]{1,63})/.exec(line)
    if (plain !== null) {
      const [, group = '', id] = plain
      if (!isSectionName(group)) {
        throw blockError('EINVAL', `There is no option group '${group}'`)
      }
      if (id !== undefined) {
        claimId(ids, group, id)
      }
      current = { section: {}, schema: sectionSchemas[group] }
      into[group].push(current.section)
      continue
    }
    // What does not look like a value is taken for an empty one, as QEMU's scanner does.
    const pair = /^\s*(\S{1,63})(?:\s*=\s*"([^"]{1,1023}))?/.exec(line)
    if (pair === null) {
      throw blockError('EINVAL', 'parse error')
    }
    const [, name = '', value = ''] = pair
    if (current === undefined) {
      throw blockError('EINVAL', 'no group defined')
    }
    const spec = Object.hasOwn(current.schema, name) ? current.schema[name] : undefined
    if (spec === undefined) {
      throw blockError('EINVAL', `Invalid parameter '${name}'`)
    }
    current.section[name] = typeOption(name, spec, value)
  }
}

function claimId(ids: Set<string>, group: string, id: string): void {
  if (!isWellFormedId(id)) {
    throw blockError('EINVAL', "Parameter 'id' expects an identifier", {
      hint: "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
    })
  }
  const key = `${group} ${id}`
  if (ids.has(key)) {
    throw blockError('EINVAL', `Duplicate ID '${id}' for ${group}`)
  }
  ids.add(key)
}

/** Takes `inject-error.*` and `set-state.*` out of `options`: one section, or a list of them from 0 on. */
export function takeSections(options: OptionDict, into: Sections): void {
  for (const group of sectionNames) {
    const sub = options.takeSubtree(`${group}.`)
    if (sub.size === 0) {
      continue
    }
    const schema: OptionSchema = sectionSchemas[group]
    const known = sub.keys().some((key) => Object.hasOwn(schema, key))
    if (known) {
      into[group].push(takeSection(group, sub, schema))
      continue
    }
    takeList(group, sub, schema, into[group])
  }
}

function takeSection(group: string, sub: OptionDict, schema: OptionSchema): Section {
  const section = takeOptions(sub, schema) as Section
  const [left] = sub.keys()
  if (left !== undefined) {
    throw blockError('EINVAL', `[${group}] section doesn't support the option '${left}'`)
  }
  return section
}

function takeList(group: string, sub: OptionDict, schema: OptionSchema, into: Section[]): void {
  const list: (OptionDict | undefined)[] = []
  for (let index = 0; ; index++) {
    const item = sub.takeSubtree(`${index}.`)
    if (item.size > 0) {
      list.push(item)
    } else if (sub.has(String(index))) {
      sub.delete(String(index))
      list.push(undefined)
    } else {
      break
    }
  }
  const [left] = sub.keys()
  if (left !== undefined) {
    throw blockError('EINVAL', `Unused option '${left}' for [${group}]`)
  }
  for (const [index, item] of list.entries()) {
    if (item === undefined) {
      throw blockError('EINVAL', `[${group}] section (index ${index}) does not consist of keys`)
    }
    into.push(takeSection(group, item, schema))
  }
}
