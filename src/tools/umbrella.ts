import type { ToolContext } from './context.js'
import { run as runImg } from './img/run.js'

/**
 * `blockgraph`: the commands of `qemu-img` at the top, and again below `img`, where tools to come will
 * have their places beside it.
 */
export async function runUmbrella(argv: readonly string[], context: ToolContext): Promise<number> {
  return argv[0] === 'img'
    ? await runImg(argv.slice(1), { ...context, program: `${context.program} img` })
    : await runImg(argv, context)
}
