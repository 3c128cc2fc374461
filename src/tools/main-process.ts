import { fstatSync, read as readAsync, write as writeAsync, writeSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename } from 'node:path'
import { BlockError, errnoName, strerror } from '../errors/index.js'
import type { ToolContext } from './context.js'
import type { ServerProcess } from './server-process.js'

/** The tool's process: the only part of the tools that knows Node. */

const stdin = 0
const stdout = 1
const stderr = 2

/** Bytes read from standard input at a time. */
const readBytes = 1024 * 1024

/** Signals that end a program; it cleans up before it lets them. */
const endSignals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

function errnoOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? ''
}

function translated(error: unknown, what: string): BlockError {
  const code = errnoName(-((error as NodeJS.ErrnoException).errno ?? 0))
  return new BlockError(code, `${what}: ${strerror(code)}`, { cause: error })
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds)
  })
}

/** Writes text completely and at once; output that nobody reads any more is dropped. */
function writeText(descriptor: number, text: string): void {
  const bytes = new TextEncoder().encode(text)
  for (let done = 0; done < bytes.length; ) {
    try {
      done += writeSync(descriptor, bytes, done)
    } catch (error) {
      if (errnoOf(error) !== 'EAGAIN') {
        return
      }
      // Somebody made the pipe non-blocking, and it is full.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1)
    }
  }
}

/** Writes image data to standard output. */
async function writeData(chunk: Uint8Array): Promise<void> {
  for (let done = 0; done < chunk.length; ) {
    try {
      done += await new Promise<number>((resolve, reject) => {
        writeAsync(stdout, chunk, done, chunk.length - done, null, (error, bytes) =>
          error === null ? resolve(bytes) : reject(error),
        )
      })
    } catch (error) {
      if (errnoOf(error) !== 'EAGAIN') {
        throw translated(error, 'error while writing to standard output')
      }
      await pause(1)
    }
  }
}

/** Reads image data from standard input. */
async function* readData(): AsyncGenerator<Uint8Array, void, void> {
  for (;;) {
    const buffer = new Uint8Array(readBytes)
    let bytes: number
    try {
      bytes = await new Promise<number>((resolve, reject) => {
        readAsync(stdin, buffer, 0, readBytes, null, (error, count) =>
          error === null ? resolve(count) : reject(error),
        )
      })
    } catch (error) {
      if (errnoOf(error) === 'EAGAIN') {
        await pause(1)
        continue
      }
      if (errnoOf(error) !== 'EOF') {
        throw translated(error, 'error while reading from standard input')
      }
      return
    }
    if (bytes === 0) {
      return
    }
    yield buffer.subarray(0, bytes)
  }
}

/** Whether `descriptor` is a terminal. node:tty brings sockets and streams with it, 10 ms: most runs need none. */
function isTerminal(descriptor: number): boolean {
  try {
    if (!fstatSync(descriptor).isCharacterDevice()) {
      return false
    }
  } catch {
    return false
  }
  const tty = createRequire(import.meta.url)('node:tty') as typeof import('node:tty')
  return tty.isatty(descriptor)
}

let changedFlags = false

/** Whether the engine's flags are others than at the start: a code cache taken now would be rejected then. */
export function hasChangedFlags(): boolean {
  return changedFlags
}

/**
 * Keeps V8's young generation as small as it is. It would grow to 32 MiB as soon as much survives in it, such as
 * tables in a cache. Called when a program has loaded everything: changed flags make V8 reject code caches. Only
 * for a V8 with which this was tried.
 */
function spareMemory(): void {
  if (process.versions.v8.startsWith('11.')) {
    changedFlags = true
    const { setFlagsFromString } = createRequire(import.meta.url)('node:v8') as typeof import('node:v8')
    setFlagsFromString('--semi-space-growth-factor=1')
  }
}

/** Raises a signal as C's raise does: without the handlers that let a tool clean up first. */
async function raise(signal: number): Promise<void> {
  for (const one of endSignals) {
    process.removeAllListeners(one)
  }
  try {
    process.kill(process.pid, signal)
  } catch {
    // There is no such signal.
    return
  }
  // It takes effect when the loop turns.
  await pause(20)
}

/** Lines typed on the terminal, until it ends. */
async function* promptLines(prompt: string): AsyncGenerator<string, void, void> {
  const { createInterface } = createRequire(import.meta.url)(
    'node:readline',
  ) as typeof import('node:readline')
  const lines = createInterface({ input: process.stdin, output: process.stdout, prompt, historySize: 64 })
  try {
    lines.prompt()
    for await (const line of lines) {
      yield line
      lines.prompt()
    }
  } finally {
    lines.close()
  }
}

/** The context of this process. `program` is what messages call it; default: the name it was called by. */
export function processContext(
  program: string | undefined,
  signal: AbortSignal,
  server?: ServerProcess,
): ToolContext {
  return {
    ...(server === undefined ? {} : { server }),
    program: program ?? basename(process.argv[1] ?? 'blockgraph-img'),
    stdout: (text) => writeText(stdout, text),
    stderr: (text) => writeText(stderr, text),
    sink: { write: writeData },
    source: { [Symbol.asyncIterator]: readData },
    get terminal() {
      return isTerminal(stdout) ? { columns: process.stdout.columns || 80 } : undefined
    },
    signal,
    spareMemory,
    pause,
    raise,
    get prompt() {
      return isTerminal(stdin) ? promptLines : undefined
    },
    createLayer: async (warn) => {
      const [{ createBlockLayer }, { createNodeHost }, { allDrivers }] = await Promise.all([
        import('../graph/index.js'),
        import('../platform/node/index.js'),
        import('../all-drivers.js'),
      ])
      const abort = (line: string): never => {
        writeText(stderr, `${line}\n`)
        process.exit(1)
      }
      const print = (line: string): void => writeText(stdout, `${line}\n`)
      return createBlockLayer({
        host: createNodeHost({ warn, print, abort, io: 'foreground' }),
        drivers: allDrivers,
      })
    },
    onProgressRequest: (handler) => {
      process.on('SIGUSR1', handler)
      return () => {
        process.off('SIGUSR1', handler)
      }
    },
  }
}

/**
 * Runs a tool as this process: its exit code becomes the process's, and a signal to end lets the tool
 * clean up first and then has its usual effect. A second one ends the process at once.
 */
export async function runProcess(
  tool: (argv: readonly string[], context: ToolContext) => Promise<number>,
  program?: string,
  serverOf?: (endsBySignal: () => void) => ServerProcess,
): Promise<void> {
  const controller = new AbortController()
  let received: NodeJS.Signals | undefined
  const onSignal = (signal: NodeJS.Signals): void => {
    if (received !== undefined) {
      endBy(signal)
    }
    received = signal
    controller.abort(new Error(signal))
  }
  const endBy = (signal: NodeJS.Signals): void => {
    for (const one of endSignals) {
      process.off(one, onSignal)
    }
    process.kill(process.pid, signal)
  }
  for (const signal of endSignals) {
    process.on(signal, onSignal)
  }
  let endsBySignal = false
  const server = serverOf?.(() => {
    endsBySignal = true
  })
  process.exitCode = await tool(process.argv.slice(2), processContext(program, controller.signal, server))
  if (!endsBySignal && received !== undefined) {
    endBy(received)
    // The signal takes effect when the loop turns.
    await pause(1000)
  }
  process.exit()
}
