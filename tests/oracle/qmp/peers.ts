import { type ChildProcess, spawn } from 'node:child_process'
import net from 'node:net'
import { join } from 'node:path'
import { allDrivers } from '../../../src/all-drivers.js'
import { createBlockLayer } from '../../../src/graph/index.js'
import { createNodeHost } from '../../../src/platform/node/index.js'
import { threadScript } from '../../../src/platform/node/worker/script-fixture.js'
import type { ToolContext } from '../../../src/tools/context.js'
import { serverProcess } from '../../../src/tools/main-server.js'
import { run } from '../../../src/tools/storage-daemon/run.js'

const script = threadScript()

/** A QMP connection, line by line. */
export class QmpLines {
  readonly socket: net.Socket
  readonly #lines: string[] = []
  readonly #waiting: ((line: string) => void)[] = []
  #rest = ''

  private constructor(socket: net.Socket) {
    this.socket = socket
    socket.setEncoding('utf8')
    socket.on('error', () => undefined)
    socket.on('data', (text: string) => {
      const parts = (this.#rest + text).split('\r\n')
      this.#rest = parts.pop() ?? ''
      for (const line of parts) {
        const waiting = this.#waiting.shift()
        if (waiting === undefined) {
          this.#lines.push(line)
        } else {
          waiting(line)
        }
      }
    })
  }

  static async connect(path: string): Promise<QmpLines> {
    // Between binding and listening there is a moment at which connections are refused.
    for (let i = 0; ; i++) {
      const socket = net.connect(path)
      const failure = await new Promise<Error | undefined>((resolve) => {
        socket.once('connect', () => resolve(undefined))
        socket.once('error', resolve)
      })
      if (failure === undefined) {
        return new QmpLines(socket)
      }
      if (i > 500) {
        throw failure
      }
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }

  send(text: string | Uint8Array): void {
    this.socket.write(text)
  }

  /** The next line, at most five seconds away. */
  async next(): Promise<string> {
    const line = this.#lines.shift()
    if (line !== undefined) {
      return line
    }
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('no answer')), 5000)
      this.#waiting.push((text) => {
        clearTimeout(timer)
        resolve(text)
      })
    })
  }

  /** Lines that have come already. */
  taken(): string[] {
    return this.#lines.splice(0)
  }
}

/** A daemon with one monitor at `qmp.sock` in `dir`. */
export interface Peer extends AsyncDisposable {
  readonly dir: string
  connect(): Promise<QmpLines>
  /** Everything it has written so far. */
  output(): string
}

function monitorArguments(dir: string): string[] {
  const chardev = `socket,id=monitor0,path=${join(dir, 'qmp.sock')},server=on,wait=off`
  return ['--chardev', chardev, '--monitor', 'monitor0']
}

export function startTheirs(dir: string, args: readonly string[] = []): Peer {
  return startProgram('qemu-storage-daemon', [...args, ...monitorArguments(dir)], dir)
}

/** A virtual machine without anything in it but a monitor. */
export function startMachine(dir: string): Peer {
  const [, chardev] = monitorArguments(dir)
  // It is not started: that it runs now would be one more event.
  const nothing = ['-machine', 'none', '-nodefaults', '-display', 'none', '-S']
  const monitor = ['-chardev', chardev as string, '-mon', 'chardev=monitor0,mode=control']
  return startProgram('qemu-system-x86_64', [...nothing, ...monitor], dir)
}

function startProgram(program: string, args: readonly string[], dir: string): Peer {
  const child: ChildProcess = spawn(program, args, { cwd: dir })
  let output = ''
  child.stdout?.on('data', (text: Buffer) => {
    output += text.toString()
  })
  child.stderr?.on('data', (text: Buffer) => {
    output += text.toString()
  })
  const ended = new Promise((resolve) => child.once('close', resolve))
  return {
    dir,
    connect: async () => await QmpLines.connect(join(dir, 'qmp.sock')),
    output: () => output,
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGTERM')
      await ended
    },
  }
}

/** What our tool needs of a process, in this one. */
export function testContext(
  write: (text: string) => void,
  signal: AbortSignal,
  stdin: AsyncIterable<Uint8Array> = (async function* () {})(),
): ToolContext {
  return {
    program: 'qemu-storage-daemon',
    stdout: write,
    stderr: write,
    sink: {
      write: (chunk) => {
        write(new TextDecoder().decode(chunk))
        return Promise.resolve()
      },
    },
    source: stdin,
    terminal: undefined,
    signal,
    server: serverProcess(() => undefined),
    createLayer: (warn) =>
      Promise.resolve(
        createBlockLayer({
          host: createNodeHost({
            warn,
            print: (line) => write(`${line}\n`),
            io: 'threads',
            threadScript: script,
          }),
          drivers: allDrivers,
        }),
      ),
    onProgressRequest: () => () => undefined,
  }
}

/** Our daemon, in this process. */
export function startOurs(dir: string, args: readonly string[] = []): Peer {
  const controller = new AbortController()
  let output = ''
  const ended = run(
    [...args, ...monitorArguments(dir)],
    testContext((text) => {
      output += text
    }, controller.signal),
  )
  return {
    dir,
    connect: async () => await QmpLines.connect(join(dir, 'qmp.sock')),
    output: () => output,
    [Symbol.asyncDispose]: async () => {
      controller.abort()
      await ended
    },
  }
}

/** What differs between two runs of the same daemon taken out of a line. */
export function normalized(line: string, dir: string): string {
  return (
    line
      .replaceAll(dir, 'DIR')
      .replace(/"timestamp": \{[^}]*\}(, )?/, '')
      .replace(/"package": "[^"]*"/g, '"package": ""')
      .replace(/#block\d+/g, '#block')
      .replace(/"actual-size": \d+/g, '"actual-size": 0')
      // Where an image puts things in its file, and so the length of that, is its driver's business.
      .replace(/"virtual-size": \d+(?=, "filename": "[^"]*", "format": "file")/g, '"virtual-size": 0')
      .replace(/"(date-n?sec|vm-clock-n?sec|idle_time_ns|\w+_total_time_ns)": \d+/g, '"$1": 0')
  )
}
