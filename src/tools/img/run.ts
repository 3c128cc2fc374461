import { isBlockError } from '../../errors/index.js'
import { type ToolContext, ToolExit } from '../context.js'
import { Getopt } from '../getopt.js'
import { flag, type ImgCommand, ImgTool, valued } from './tool.js'

/** Commands are loaded when they are called: start-up is most of what a short one takes. */
const commands: Readonly<Record<string, () => Promise<ImgCommand>>> = {
  amend: async () => (await import('./commands/amend.js')).amend,
  bench: async () => (await import('./commands/bench.js')).bench,
  bitmap: async () => (await import('./commands/bitmap.js')).bitmap,
  check: async () => (await import('./commands/check.js')).check,
  commit: async () => (await import('./commands/commit.js')).commit,
  compact: async () => (await import('./commands/compact.js')).compact,
  compare: async () => (await import('./commands/compare.js')).compare,
  convert: async () => (await import('./commands/convert.js')).convert,
  create: async () => (await import('./commands/create.js')).create,
  dd: async () => (await import('./commands/dd.js')).dd,
  info: async () => (await import('./commands/info.js')).info,
  map: async () => (await import('./commands/map.js')).map,
  measure: async () => (await import('./commands/measure.js')).measure,
  ova: async () => (await import('./commands/ova.js')).ova,
  rebase: async () => (await import('./commands/rebase.js')).rebase,
  resize: async () => (await import('./commands/resize.js')).resize,
  snapshot: async () => (await import('./commands/snapshot.js')).snapshot,
}

/**
 * `qemu-img`: runs a command line and returns the exit code. Nothing is thrown, and nothing stays
 * open.
 *
 * @param argv the arguments, without the program's name
 */
export async function run(argv: readonly string[], context: ToolContext): Promise<number> {
  const tool = new ImgTool(context)
  let code: number
  try {
    code = await dispatch(argv, tool)
  } catch (error) {
    code = failure(error, tool)
  }
  try {
    await tool.close()
  } catch (error) {
    code = failure(error, tool)
  }
  return code
}

function failure(error: unknown, tool: ImgTool): number {
  if (error instanceof ToolExit) {
    return error.code
  }
  if (isBlockError(error)) {
    tool.report(error)
    return 1
  }
  tool.error(`internal error: ${error instanceof Error ? error.message : String(error)}`)
  if (tool.debug) {
    tool.stack(error)
  }
  return 1
}

async function dispatch(argv: readonly string[], tool: ImgTool): Promise<number> {
  const { context } = tool
  if (argv.length === 0) {
    tool.usage('Not enough arguments')
  }
  const long = [flag('help', 'h'), flag('version', 'V'), valued('trace', 'T'), flag('debug')]
  const getopt = new Getopt([context.program, ...argv], '+:hVT:', long)
  for (let next = getopt.next(); next !== undefined; next = getopt.next()) {
    switch (next.option) {
      case ':':
        tool.usage(`missing argument for option '${getopt.previous}'`)
        break
      case '?':
        tool.usage(`unrecognized option '${getopt.previous}'`)
        break
      case 'h':
        await tool.help()
        break
      case 'V': {
        const { versionText } = await import('./help.js')
        context.stdout(versionText(context.program))
        return 0
      }
      case 'debug':
        tool.debug = true
        break
      case 'T':
        break
    }
  }
  const operands = getopt.operands
  const [name] = operands
  if (name === undefined) {
    return 0
  }
  const load = Object.hasOwn(commands, name) ? commands[name] : undefined
  if (load !== undefined) {
    const command = await load()
    return await command.run(operands, tool)
  }
  tool.usage(`Command not found: ${name}`)
}
