import type { JsonValue } from '../../options/index.js'
import type { entities, types } from './index.js'

// The schema as types of TypeScript.

type Types = typeof types
type Entities = typeof entities

interface Builtins {
  str: string
  int: number
  uint16: number
  uint32: number
  uint64: number
  size: number
  number: number
  bool: boolean
  null: null
  any: JsonValue
}

/** The values of the type called `N`. */
export type TypeOf<N extends string> = N extends `[${infer E}]`
  ? readonly TypeOf<E>[]
  : N extends keyof Builtins
    ? Builtins[N]
    : N extends keyof Types
      ? FromDef<Types[N]>
      : never

type FromDef<D> = D extends { enum: readonly (infer V)[] }
  ? V
  : D extends { struct: infer M }
    ? Members<M>
    : D extends { union: infer M; tag: infer T; branches: infer B }
      ? Union<M, T, B>
      : D extends { alternate: readonly (infer A)[] }
        ? EachOf<A>
        : never

type EachOf<A> = A extends string ? TypeOf<A> : never

type Member<D> = D extends string ? TypeOf<D> : D extends { type: infer N extends string } ? TypeOf<N> : never

type Members<M> = {
  readonly [K in keyof M as K extends `*${string}` ? never : K]: Member<M[K]>
} & {
  readonly [K in keyof M as K extends `*${infer N}` ? N : never]?: Member<M[K]> | undefined
}

type EnumValues<N> = N extends keyof Types
  ? Types[N] extends { enum: readonly (infer V)[] }
    ? V
    : never
  : never

type Union<M, T, B> = T extends keyof M ? Branch<Members<Omit<M, T>>, T, B, EnumValues<M[T]>> : never

// One object type for each value.
type Branch<Common, T extends PropertyKey, B, V> = V extends string
  ? Common & { readonly [K in T]: V } & (V extends keyof B ? EachOf<B[V]> : unknown)
  : never

/** Names of all commands. */
export type CommandName = {
  [K in keyof Entities]: Entities[K] extends { event: true } ? never : K
}[keyof Entities]

/** Names of all events. */
export type EventName = {
  [K in keyof Entities]: Entities[K] extends { event: true } ? K : never
}[keyof Entities]

type Data<E> = E extends { data: infer D }
  ? D extends string
    ? TypeOf<D>
    : Members<D>
  : Readonly<Record<never, never>>

/** The arguments of a command. */
export type ArgumentsOf<C extends CommandName> = Data<Entities[C]>

/** What a command returns; an empty object if nothing. */
export type ReturnOf<C extends CommandName> = Entities[C] extends { returns: infer R extends string }
  ? TypeOf<R>
  : Readonly<Record<never, never>>

/** The data of an event. */
export type EventDataOf<E extends EventName> = Data<Entities[E]>

/** An event as it comes over the wire. */
export type QmpEvent = {
  [E in EventName]: {
    readonly event: E
    readonly data: EventDataOf<E>
    readonly timestamp: { readonly seconds: number; readonly microseconds: number }
  }
}[EventName]
