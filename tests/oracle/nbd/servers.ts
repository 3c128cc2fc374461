import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const exec = promisify(execFile)

/** Our tool as a process; it needs the build (scripts/build.mjs). */
export const ourTool = fileURLToPath(new URL('../../../bin/blockgraph-nbd', import.meta.url))

export interface Finished {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** Runs a program to its end, at most ten seconds. */
export async function finish(program: string, args: readonly string[], cwd?: string): Promise<Finished> {
  try {
    const options = { encoding: 'utf8', timeout: 10_000, killSignal: 'SIGKILL', cwd } as const
    const { stdout, stderr } = await exec(program, args, options)
    return { code: 0, stdout, stderr }
  } catch (error) {
    const { code, stdout, stderr } = error as { code?: number | string; stdout: string; stderr: string }
    if (typeof code !== 'number') {
      throw error
    }
    return { code, stdout, stderr }
  }
}

/** Whether connections are accepted there: the file is there a moment before that. */
export function isListening(socket: string): boolean {
  if (!existsSync(socket)) {
    return false
  }
  // Address, count, protocol, flags (__SO_ACCEPTCON), type, state, inode, path.
  const lines = readFileSync('/proc/net/unix', 'latin1').split('\n')
  return lines.some((line) => line.endsWith(` ${socket}`) && line.split(/\s+/)[3] === '00010000')
}

/** A server that runs until it is disposed of. */
export class Served implements AsyncDisposable {
  readonly child: ChildProcess
  readonly ended: Promise<number | null>
  stderr = ''

  private constructor(child: ChildProcess) {
    this.child = child
    child.stderr?.on('data', (text: Buffer) => {
      this.stderr += text.toString()
    })
    this.ended = new Promise((resolve) => child.once('exit', resolve))
  }

  /** Starts `program`; resolves when there is something at `socket` that accepts connections. */
  static async start(
    program: string,
    args: readonly string[],
    socket: string | undefined,
    cwd: string,
  ): Promise<Served> {
    const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'], cwd })
    const served = new Served(child)
    for (let i = 0; socket !== undefined && !isListening(socket); i++) {
      if (i > 400 || child.exitCode !== null) {
        child.kill('SIGKILL')
        throw new Error(`${program} ${args.join(' ')} does not listen: ${served.stderr}`)
      }
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    return served
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.child.exitCode === null) {
      this.child.kill('SIGTERM')
      await this.ended
    }
  }
}
