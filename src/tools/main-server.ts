import { spawn } from 'node:child_process'
import { closeSync, writeFileSync, writeSync } from 'node:fs'
import { errnoError, errnoName } from '../errors/index.js'
import type { ServerProcess } from './server-process.js'

/** Set in a process that was started to run in the background: the descriptor on which its parent waits. */
const readyVariable = 'BLOCKGRAPH_READY_FD'
const readyDescriptor = 3

/** Sockets that systemd, or whoever speaks like it, handed over. Others who started this process get no say. */
function inheritedSockets(): number {
  const { LISTEN_PID: pid, LISTEN_FDS: count } = process.env
  if (pid === undefined || count === undefined || Number(pid) !== process.pid) {
    return 0
  }
  const number = Number(count)
  return Number.isInteger(number) && number > 0 ? number : 0
}

function fork(): Promise<number> {
  const [node, ...args] = [process.execPath, ...process.execArgv, ...process.argv.slice(1)]
  const child = spawn(node as string, args, {
    detached: true,
    env: { ...process.env, [readyVariable]: String(readyDescriptor) },
    stdio: ['ignore', 'ignore', 'inherit', 'pipe'],
  })
  return new Promise((resolve) => {
    const pipe = child.stdio[readyDescriptor] as NodeJS.ReadableStream
    pipe.once('data', (bytes: Buffer) => resolve(bytes[0] === 0 ? 0 : 1))
    pipe.once('end', () => resolve(1))
    child.once('error', () => resolve(1))
    child.unref()
  })
}

/** What this process has for a tool that runs as a server. */
export function serverProcess(endsBySignal: () => void): ServerProcess {
  const sockets = inheritedSockets()
  const isForked = process.env[readyVariable] !== undefined
  // Programs started from here are on their own.
  delete process.env.LISTEN_PID
  delete process.env.LISTEN_FDS
  delete process.env[readyVariable]
  return {
    inheritedSockets: sockets,
    isForked,
    fork,
    ready: (printed) => {
      writeSync(readyDescriptor, Uint8Array.of(printed ? 1 : 0))
      closeSync(readyDescriptor)
    },
    writePidFile: (path) => {
      try {
        writeFileSync(path, `${process.pid}\n`)
      } catch (error) {
        const code = errnoName(-((error as NodeJS.ErrnoException).errno ?? 0))
        throw errnoError(code, `Could not create '${path}'`)
      }
    },
    endsBySignal,
  }
}
