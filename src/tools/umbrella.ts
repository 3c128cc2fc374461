import type { ToolContext } from './context.js'
import { run as runImg } from './img/run.js'

/**
 * `blockgraph`: the commands of `qemu-img` at the top, and again below `img`; those of `qemu-io`
 * below `io`, `qemu-nbd` as `nbd` and `qemu-storage-daemon` as `storage-daemon`. At the top, images that stand compressed are read as what they hold.
 */
export async function runUmbrella(argv: readonly string[], context: ToolContext): Promise<number> {
  if (argv[0] === 'io') {
    const { run } = await import('./io/run.js')
    return await run(argv.slice(1), { ...context, program: `${context.program} io` })
  }
  if (argv[0] === 'nbd') {
    const { run } = await import('./nbd/run.js')
    return await run(argv.slice(1), { ...context, program: `${context.program} nbd` })
  }
  if (argv[0] === 'storage-daemon') {
    const { run } = await import('./storage-daemon/run.js')
    return await run(argv.slice(1), { ...context, program: `${context.program} storage-daemon` })
  }
  return argv[0] === 'img'
    ? await runImg(argv.slice(1), { ...context, program: `${context.program} img` })
    : await runImg(argv, withExtras(context))
}

/** What goes beyond QEMU's tools. */
function withExtras(context: ToolContext): ToolContext {
  return {
    ...context,
    extras: true,
    createLayer: async (warn) => {
      const layer = await context.createLayer(warn)
      layer.probeTails = true
      return layer
    },
  }
}
