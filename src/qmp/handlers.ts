import type { ArgumentsOf, CommandName, ReturnOf } from './schema/types.js'

/**
 * What executes commands, by name. Arguments have been checked against the schema; results must be of its
 * type. A handler throws BlockError, whose class and message go to the client.
 */
export type CommandHandlers = {
  readonly [C in CommandName]?: (
    args: ArgumentsOf<C>,
  ) =>
    | ReturnOf<C>
    | Promise<ReturnOf<C>>
    | (Record<never, never> extends ReturnOf<C> ? void | Promise<void> : never)
}

/** Handlers of an area, checked one by one. */
export function defineHandlers<const H extends CommandHandlers>(handlers: H): H {
  return handlers
}
