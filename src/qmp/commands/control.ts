import type { CommandContext } from '../context.js'
import { defineHandlers } from '../handlers.js'
import { introspect } from '../introspect.js'
import type { ReturnOf } from '../schema/types.js'

/** The monitor itself. */
export function controlCommands(context: CommandContext) {
  let schema: ReturnOf<'query-qmp-schema'> | undefined
  return defineHandlers({
    'query-version': () => context.version,
    // The command of the negotiation is listed although that is over.
    'query-commands': () => ['qmp_capabilities', ...context.commands()].map((name) => ({ name })),
    'query-qmp-schema': () => {
      schema ??= introspect() as unknown as ReturnOf<'query-qmp-schema'>
      return schema
    },
    quit: () => context.quit(),
  })
}
