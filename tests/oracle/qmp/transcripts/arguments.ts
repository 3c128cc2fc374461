import {
  type EntityDef,
  elementType,
  entities,
  isBuiltin,
  type MemberDefs,
  memberType,
  typeDef,
} from '../../../../src/qmp/schema/index.js'
import { none } from '../same.js'
import { call, type Step } from '../transcript.js'
import type { Transcript } from './transcript-type.js'

/** The least value of a type. */
function sample(type: string): unknown {
  if (elementType(type) !== undefined) {
    return []
  }
  if (isBuiltin(type)) {
    return type === 'str' ? 'x' : type === 'bool' ? true : type === 'null' || type === 'any' ? null : 1
  }
  const def = typeDef(type)
  if ('enum' in def) {
    return def.enum[0]
  }
  if ('alternate' in def) {
    return 'x'
  }
  return sampleOf('struct' in def ? def.struct : def.union)
}

function sampleOf(members: MemberDefs): Record<string, unknown> {
  const needed = Object.entries(members).filter(([key]) => !key.startsWith('*'))
  return Object.fromEntries(needed.map(([key, def]) => [key, sample(memberType(def))]))
}

/** Values that the type does not take. */
function wrong(type: string): unknown[] {
  if (elementType(type) !== undefined) {
    return [{}]
  }
  if (isBuiltin(type)) {
    return type === 'any' ? [] : type === 'str' ? [7, null] : type === 'bool' ? ['on'] : ['1', 1.5]
  }
  return 'enum' in typeDef(type) ? ['nope', []] : [7]
}

function membersOf({ data }: EntityDef): MemberDefs {
  if (data === undefined || typeof data === 'object') {
    return data ?? {}
  }
  const def = typeDef(data)
  return 'struct' in def ? def.struct : 'union' in def ? def.union : {}
}

/** Each mandatory argument left out, each argument of the wrong type, one too many. */
function refusals(command: string, def: EntityDef): Step[] {
  const members = membersOf(def)
  const good = sampleOf(members)
  const steps: Step[] = []
  for (const [key, member] of Object.entries(members)) {
    const name = key.replace('*', '')
    if (name === key) {
      const { [name]: _, ...others } = good
      steps.push(call(command, others))
    }
    steps.push(...wrong(memberType(member)).map((value) => call(command, { ...good, [name]: value })))
  }
  return [...steps, call(command, { ...good, zz: 1 })]
}

const commands = Object.entries(entities as Readonly<Record<string, EntityDef>>).filter(
  ([, def]) => def.event !== true,
)

export const argumentTranscripts: readonly Transcript[] = [
  {
    name: 'arguments',
    prepare: none,
    steps: commands.flatMap(([command, def]) => refusals(command, def)),
  },
]
