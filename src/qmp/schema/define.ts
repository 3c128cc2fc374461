/**
 * The language of the schema, after QAPI's: types, commands and events as data. The types of TypeScript,
 * the checks of arguments and `query-qmp-schema` all come from it.
 *
 * A type is named by a string: a built-in (`str`, `int`, `size`, …), a key of the table of types, or
 * either in brackets for a list. A member whose key starts with `*` is optional.
 */
export type TypeName = string

export type MemberDef = TypeName | { readonly type: TypeName; readonly features: readonly string[] }
export type MemberDefs = Readonly<Record<string, MemberDef>>

export interface EnumDef {
  readonly enum: readonly string[]
  readonly features?: readonly string[]
  readonly memberFeatures?: Readonly<Record<string, readonly string[]>>
}

export interface StructDef {
  readonly struct: MemberDefs
  readonly features?: readonly string[]
}

/** An object whose further members depend on the value of its member `tag`; values without a branch add none. */
export interface UnionDef {
  readonly union: MemberDefs
  readonly tag: string
  readonly branches: Readonly<Record<string, TypeName>>
  readonly features?: readonly string[]
}

/** One of several types, told apart by the kind of JSON value. */
export interface AlternateDef {
  readonly alternate: readonly TypeName[]
  readonly features?: readonly string[]
}

export type TypeDef = EnumDef | StructDef | UnionDef | AlternateDef

/** A command, or with `event` an event. `data` are the arguments: the name of a type, or members. */
export interface EntityDef {
  readonly data?: TypeName | MemberDefs
  /** Absent: an empty object. */
  readonly returns?: TypeName
  /** May be executed out of band. */
  readonly oob?: true
  readonly event?: true
  readonly features?: readonly string[]
}

export function defineTypes<const T extends Readonly<Record<string, TypeDef>>>(types: T): T {
  return types
}

export function defineEntities<const T extends Readonly<Record<string, EntityDef>>>(entities: T): T {
  return entities
}

/** The name of a member's type. */
export function memberType(member: MemberDef): TypeName {
  return typeof member === 'string' ? member : member.type
}

/** The element type of a list's name, or undefined. */
export function elementType(name: TypeName): TypeName | undefined {
  return name.startsWith('[') ? name.slice(1, -1) : undefined
}

/** Built-in types and the JSON type by which introspection calls them. */
export const builtins = {
  str: 'string',
  int: 'int',
  uint16: 'int',
  uint32: 'int',
  uint64: 'int',
  size: 'int',
  number: 'number',
  bool: 'boolean',
  null: 'null',
  any: 'value',
} as const

export type BuiltinName = keyof typeof builtins

export function isBuiltin(name: TypeName): name is BuiltinName {
  return Object.hasOwn(builtins, name)
}
