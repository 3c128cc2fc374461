/** The schema of the monitor: types, commands, events. */
import { blockTypes } from './block.js'
import { chardevTypes } from './chardev.js'
import { entities } from './commands.js'
import { controlTypes } from './control.js'
import { createTypes } from './create.js'
import { cryptoTypes } from './crypto.js'
import type { EntityDef, TypeDef } from './define.js'
import { exportsTypes } from './exports.js'
import { imageTypes } from './image.js'
import { jobsTypes } from './jobs.js'
import { nodesTypes } from './nodes.js'
import { nodesRemoteTypes } from './nodes-remote.js'
import { objectsTypes } from './objects.js'
import { socketsTypes } from './sockets.js'
import { transactionTypes } from './transaction.js'

export { entities } from './commands.js'
export * from './define.js'

export const types = {
  ...blockTypes,
  ...chardevTypes,
  ...controlTypes,
  ...createTypes,
  ...cryptoTypes,
  ...exportsTypes,
  ...imageTypes,
  ...jobsTypes,
  ...nodesTypes,
  ...nodesRemoteTypes,
  ...objectsTypes,
  ...socketsTypes,
  ...transactionTypes,
}

/** A named type's definition. A name that is not there is a mistake in the schema. */
export function typeDef(name: string): TypeDef {
  const def = Object.hasOwn(types, name) ? (types as Readonly<Record<string, TypeDef>>)[name] : undefined
  if (def === undefined) {
    throw new Error(`the schema has no type ${name}`)
  }
  return def
}

/** The definition of a command or event. */
export function entityDef(name: string): EntityDef | undefined {
  return Object.hasOwn(entities, name) ? (entities as Readonly<Record<string, EntityDef>>)[name] : undefined
}
