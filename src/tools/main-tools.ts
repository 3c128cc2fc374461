import type { ToolContext } from './context.js'
import { processContext, runProcess } from './main-process.js'

export { hasChangedFlags } from './main-process.js'

type Tool = (argv: readonly string[], context: ToolContext) => Promise<number>

/** The programs of the package by the name of their file in `bin/`. */
const tools: Readonly<Record<string, () => Promise<Tool>>> = {
  blockgraph: async () => (await import('./umbrella.js')).runUmbrella,
  'blockgraph-storage-daemon': async () => (await import('./storage-daemon/run.js')).run,
  'blockgraph-nbd': async () => (await import('./nbd/run.js')).run,
  'blockgraph-io': async () => (await import('./io/run.js')).run,
  'blockgraph-img': async () => (await import('./img/run.js')).run,
}

/** Runs the program `name` as this process. */
export async function start(name: string): Promise<void> {
  // Only a server needs to start other processes, and to end when it is told to.
  const servers = ['blockgraph-nbd', 'blockgraph-storage-daemon']
  const isServer =
    servers.includes(name) ||
    (name === 'blockgraph' && ['nbd', 'storage-daemon'].includes(process.argv[2] ?? ''))
  const serverOf = isServer ? (await import('./main-server.js')).serverProcess : undefined
  await runProcess(
    async (argv, context) => {
      const tool = tools[name]
      if (tool === undefined) {
        throw new Error(`no tool is called ${name}`)
      }
      return await (await tool())(argv, context)
    },
    undefined,
    serverOf,
  )
}

/**
 * Runs what every command goes through on small images in `folder`, silently, so that the engine has
 * compiled it when the build takes a code cache.
 */
export async function warmUp(folder: string): Promise<void> {
  const { run } = await import('./img/run.js')
  const context: ToolContext = {
    ...processContext('warm-up', new AbortController().signal),
    // Changed flags would spoil the cache.
    spareMemory: () => undefined,
    stdout: () => undefined,
    stderr: (text) => {
      throw new Error(text)
    },
  }
  const [a, b, c] = ['a.qcow2', 'b.raw', 'c.qcow2'].map((name) => `${folder}/${name}`) as [
    string,
    string,
    string,
  ]
  for (const argv of [
    ['create', '-f', 'qcow2', a, '4M'],
    ['create', '-f', 'raw', b, '4M'],
    ['bench', '-f', 'raw', '-w', '-c', '256', b],
    ['info', a],
    ['info', '--output=json', a],
    ['map', '--output=json', a],
    ['convert', '-f', 'raw', '-O', 'qcow2', b, c],
    ['convert', '-f', 'qcow2', '-O', 'raw', c, b],
    ['convert', '-c', '-O', 'qcow2', c, a],
    ['compare', b, c],
    ['check', a],
    ['measure', '-O', 'qcow2', b],
    ['resize', '-q', a, '8M'],
  ]) {
    const code = await run(argv, context)
    if (code !== 0) {
      throw new Error(`${argv.join(' ')}: exit ${code}`)
    }
  }
  const io = await import('./io/run.js')
  await io.run(['-f', 'qcow2', '-c', 'write -P 1 0 64k', '-c', 'read -P 1 0 64k', '-c', 'map', a], context)
}
