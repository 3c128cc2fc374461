import { fileURLToPath } from 'node:url'
import { buildSync } from 'esbuild'

/** The thread's script as the build makes it, for tests that run from the sources. */
export function threadScript(): URL {
  const { outputFiles } = buildSync({
    entryPoints: [fileURLToPath(new URL('./main.ts', import.meta.url))],
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'node',
    external: ['koffi'],
    define: { 'import.meta.url': JSON.stringify(import.meta.url) },
  })
  return new URL(`data:text/javascript,${encodeURIComponent(outputFiles[0]?.text ?? '')}`)
}
