import { isBlockError } from '../errors/index.js'

/**
 * What an action of a transaction leaves to be done when the fate of all is known. Its change has been
 * made, or checked, by then. Neither may fail.
 */
export interface PreparedAction {
  commit?(): void | Promise<void>
  /** Undoes what was done. */
  abort?(): void | Promise<void>
  /** Called at the end in either case. */
  clean?(): void | Promise<void>
}

/**
 * Prepares actions in order and then commits them all; if one cannot be prepared, those before it are
 * undone, the last first.
 *
 * @throws BlockError of the action that failed; everything is as before
 */
export async function runActions(
  actions: Iterable<() => Promise<PreparedAction> | PreparedAction>,
): Promise<void> {
  const prepared: PreparedAction[] = []
  try {
    for (const action of actions) {
      prepared.push(await action())
    }
  } catch (error) {
    for (const one of [...prepared].reverse()) {
      await one.abort?.()
    }
    for (const one of prepared) {
      await one.clean?.()
    }
    throw error
  }
  for (const one of prepared) {
    await one.commit?.()
  }
  for (const one of prepared) {
    await one.clean?.()
  }
}

/** Does something whose failure changes nothing any more. */
export async function ignoringErrors(run: () => Promise<unknown>): Promise<void> {
  try {
    await run()
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
  }
}
