import { readFileSync, renameSync, unlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { Script } from 'node:vm'

/** What the bundle of all tools exports (main-tools.ts). */
interface Tools {
  start(name: string): Promise<void>
  warmUp(folder: string): Promise<void>
  hasChangedFlags(): boolean
}

export interface LoadedTools {
  readonly tools: Tools
  /** Keeps what the engine has compiled so far for the next start. Throws if it cannot be written. */
  saveCache(): void
  /** No usable code cache was there. */
  readonly needsCache: boolean
}

/**
 * Loads the bundled tools with V8's code cache, so that a command does not spend its start on compiling.
 *
 * The cache lies beside the bundle, one for each version of Node; its name holds the bundle's hash,
 * because V8 itself compares no more than the length of the source. Docs: decisions/0005.
 */
export function loadTools(): LoadedTools {
  const folder = __dirname
  const { bundle, hash } = JSON.parse(readFileSync(join(folder, 'bundle.json'), 'utf8')) as {
    bundle: string
    hash: string
  }
  const path = join(folder, bundle)
  const cachePath = join(folder, `tools-${hash}-${process.version}-${process.arch}.cache`)
  const cachedData = readCache(cachePath)
  // The file is one expression, a function of what a CommonJS module gets.
  const source = readFileSync(path, 'latin1')
  const script = new Script(source, { filename: path, ...(cachedData === undefined ? {} : { cachedData }) })
  const module: { exports: unknown } = { exports: {} }
  const wrapper = script.runInThisContext() as (...args: unknown[]) => void
  wrapper(module.exports, createRequire(path), module, path, dirname(path))
  return {
    tools: module.exports as Tools,
    needsCache: cachedData === undefined || script.cachedDataRejected === true,
    saveCache: () => writeCache(cachePath, script.createCachedData()),
  }
}

function readCache(path: string): Buffer | undefined {
  try {
    return readFileSync(path)
  } catch {
    return undefined
  }
}

/** Another process may be starting meanwhile: the file appears under its name when it is whole. */
function writeCache(path: string, data: Buffer): void {
  const temporary = `${path}.${process.pid}-${process.hrtime.bigint()}`
  try {
    writeFileSync(temporary, data, { flag: 'wx' })
    renameSync(temporary, path)
  } catch (error) {
    try {
      unlinkSync(temporary)
    } catch {
      // It was not made.
    }
    throw error
  }
}

/** Runs the program `name` as this process. */
export async function launch(name: string): Promise<void> {
  const { tools, needsCache, saveCache } = loadTools()
  if (needsCache) {
    // This version of Node has not run the package before.
    process.once('exit', () => {
      if (tools.hasChangedFlags()) {
        return
      }
      try {
        saveCache()
      } catch {
        // Installed where this user may not write: later starts stay as slow as this one.
      }
    })
  }
  await tools.start(name)
}
