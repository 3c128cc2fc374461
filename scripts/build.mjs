// Builds dist/: the library with drivers split off, the tools in one bundle with V8's code cache, and
// type declarations.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const root = fileURLToPath(new URL('..', import.meta.url))
process.chdir(root)
rmSync('dist', { recursive: true, force: true })

const common = {
  outdir: 'dist',
  bundle: true,
  platform: 'node',
  target: 'node20',
  packages: 'external',
  sourcemap: true,
  legalComments: 'none',
  logLevel: 'warning',
}

await build({
  ...common,
  entryPoints: {
    index: 'src/index.ts',
    testing: 'src/testing/index.ts',
    'io-thread': 'src/platform/node/worker/main.ts',
  },
  splitting: true,
  format: 'esm',
  chunkNames: 'chunks/[name]-[hash]',
})

const importMetaUrl = "const importMetaUrl = require('node:url').pathToFileURL(__filename).href"
const commonjs = {
  ...common,
  format: 'cjs',
  outExtension: { '.js': '.cjs' },
  // Packages are loaded by require: a script with a code cache has no loader for import().
  supported: { 'dynamic-import': false },
  define: { 'import.meta.url': 'importMetaUrl' },
  charset: 'ascii',
}
await build({
  ...commonjs,
  entryPoints: { 'tools/launch': 'src/tools/main-launch.ts' },
  banner: { js: importMetaUrl },
})
// One file loads faster than many modules; drivers and commands in it still start on demand. Its source stays
// in memory, so it is short, and it is the whole script, so that no second copy is made around it.
await build({
  ...commonjs,
  entryPoints: { 'tools/tools': 'src/tools/main-tools.ts' },
  minify: true,
  banner: { js: `(function (exports, require, module, __filename, __dirname) {${importMetaUrl}` },
  footer: { js: '})' },
})

const bundle = 'tools.cjs'
const hash = createHash('sha256')
  .update(readFileSync(`dist/tools/${bundle}`))
  .digest('hex')
  .slice(0, 12)
writeFileSync('dist/tools/bundle.json', JSON.stringify({ bundle, hash }))

const scratch = mkdtempSync(join(tmpdir(), 'blockgraph-build-'))
try {
  const { loadTools } = createRequire(import.meta.url)('../dist/tools/launch.cjs')
  const { tools, saveCache } = loadTools()
  await tools.warmUp(scratch)
  saveCache()
} finally {
  rmSync(scratch, { recursive: true, force: true })
}

if (!process.argv.includes('--no-types')) {
  execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'], {
    stdio: 'inherit',
  })
}
