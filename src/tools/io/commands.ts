import { asyncCommands } from './async-commands.js'
import type { IoCommand } from './command.js'
import { debugCommands } from './debug-commands.js'
import { fileCommands } from './file-commands.js'
import { imageCommands } from './image-commands.js'
import { programCommands } from './program-commands.js'
import { requestCommands } from './request-commands.js'
import { zoneCommands } from './zone-commands.js'

/** Every command, by name. */
export const allCommands: readonly IoCommand[] = [
  ...programCommands,
  ...fileCommands,
  ...imageCommands,
  ...requestCommands,
  ...asyncCommands,
  ...debugCommands,
  ...zoneCommands,
].sort((a, b) => (a.name < b.name ? -1 : 1))
