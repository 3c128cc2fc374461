import {
  builtins,
  type EntityDef,
  elementType,
  entities,
  isBuiltin,
  type MemberDefs,
  memberType,
  type TypeDef,
  typeDef,
} from './schema/index.js'

type Features = { features?: readonly string[] }

/** One entry of `query-qmp-schema`. */
export type SchemaInfo = { readonly name: string; readonly 'meta-type': string } & Readonly<
  Record<string, unknown>
>

/**
 * `query-qmp-schema`: all commands and events, then every type they use in the order of first use. Names
 * of types are numbers, as QEMU gives them, so that nobody relies on them.
 */
export function introspect(): SchemaInfo[] {
  const result: SchemaInfo[] = []
  const numbers = new Map<string, string>()
  const queue: string[] = []
  const queued = new Set<string>()
  const inline = new Map<string, TypeDef>()

  /** Notes that a type is used and returns what stands for it. */
  const use = (name: string): string => {
    const type = isBuiltin(name) && builtins[name] === 'int' ? 'int' : name
    const element = elementType(type)
    const canonical = element !== undefined && isBuiltin(element) ? `[${plain(element)}]` : type
    if (!queued.has(canonical)) {
      queued.add(canonical)
      queue.push(canonical)
    }
    return shown(canonical)
  }
  const plain = (name: string): string => (isBuiltin(name) && builtins[name] === 'int' ? 'int' : name)
  const shown = (name: string): string => {
    const element = elementType(name)
    if (element !== undefined) {
      return `[${use(element)}]`
    }
    if (isBuiltin(name)) {
      return name
    }
    const known = numbers.get(name)
    if (known !== undefined) {
      return known
    }
    const number = String(numbers.size)
    numbers.set(name, number)
    return number
  }
  const useData = (owner: string, data: EntityDef['data']): string => {
    if (data === undefined) {
      return use('')
    }
    if (typeof data === 'string') {
      return use(data)
    }
    const name = `${owner}-arg`
    inline.set(name, { struct: data })
    return use(name)
  }
  const emit = (name: string, metaType: string, rest: object, features: readonly string[] = []): void => {
    const noted: Features = features.length === 0 ? {} : { features }
    result.push({ name, 'meta-type': metaType, ...rest, ...noted })
  }
  const members = (defs: MemberDefs): object[] =>
    Object.entries(defs).map(([key, member]) => ({
      name: key.replace(/^\*/, ''),
      type: use(memberType(member)),
      ...(key.startsWith('*') ? { default: null } : {}),
      ...(typeof member === 'string' ? {} : { features: member.features }),
    }))

  for (const [name, def] of Object.entries<EntityDef>(entities)) {
    const arguments_ = useData(name, def.data)
    if (def.event === true) {
      emit(name, 'event', { 'arg-type': arguments_ }, def.features)
    } else {
      const returned = use(def.returns ?? '')
      const oob = def.oob === true ? { 'allow-oob': true } : {}
      emit(name, 'command', { 'arg-type': arguments_, 'ret-type': returned, ...oob }, def.features)
    }
  }
  for (let at = 0; at < queue.length; at++) {
    const name = queue[at] as string
    const element = elementType(name)
    if (element !== undefined) {
      emit(shown(name), 'array', { 'element-type': use(element) })
    } else if (isBuiltin(name)) {
      emit(name, 'builtin', { 'json-type': builtins[name] })
    } else {
      const def = name === '' ? { struct: {} } : (inline.get(name) ?? typeDef(name))
      emitType(shown(name), def)
    }
  }
  return result

  function emitType(name: string, def: TypeDef): void {
    if ('enum' in def) {
      const list = def.enum.map((value) => {
        const features = def.memberFeatures?.[value]
        return { name: value, ...(features === undefined ? {} : { features }) }
      })
      emit(name, 'enum', { members: list, values: def.enum }, def.features)
    } else if ('alternate' in def) {
      emit(name, 'alternate', { members: def.alternate.map((type) => ({ type: use(type) })) }, def.features)
    } else if ('struct' in def) {
      emit(name, 'object', { members: members(def.struct) }, def.features)
    } else {
      emit(
        name,
        'object',
        { members: members(def.union), tag: def.tag, variants: variants(def) },
        def.features,
      )
    }
  }

  function variants(def: Extract<TypeDef, { union: unknown }>): object[] {
    const tag = typeDef(memberType(def.union[def.tag] ?? ''))
    const values = 'enum' in tag ? tag.enum : []
    return [
      ...Object.entries(def.branches).map(([value, type]) => ({ case: value, type: use(type) })),
      ...values
        .filter((value) => !Object.hasOwn(def.branches, value))
        .map((value) => ({ case: value, type: use('') })),
    ]
  }
}
