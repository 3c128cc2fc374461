import { type ChildProcess, spawn } from 'node:child_process'

/** What a side answers to a command. */
export type Reply = { readonly return: unknown } | { readonly error: { class: string; desc: string } }

export interface SeenEvent {
  readonly event: string
  readonly data: Record<string, unknown>
}

/** A side of the comparison: takes commands one at a time and tells events. */
export interface JobSide {
  execute(command: string, args: object): Promise<Reply>
  readonly events: SeenEvent[]
  close(): Promise<void>
}

/** qemu-storage-daemon with its monitor on stdio. */
export class OracleDaemon implements JobSide {
  readonly events: SeenEvent[] = []
  readonly #process: ChildProcess
  readonly #replies: ((reply: Reply) => void)[] = []
  #rest = ''
  #errors = ''

  private constructor(folder: string, blockdevs: readonly object[]) {
    const args = blockdevs.flatMap((options) => ['--blockdev', JSON.stringify(options)])
    this.#process = spawn(
      'qemu-storage-daemon',
      [...args, '--chardev', 'stdio,id=c', '--monitor', 'chardev=c'],
      { cwd: folder, stdio: ['pipe', 'pipe', 'pipe'] },
    )
    this.#process.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#take(text)
    })
    this.#process.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#errors += text
    })
    this.#process.on('exit', () => {
      for (const resolve of this.#replies.splice(0)) {
        resolve({ error: { class: 'gone', desc: this.#errors } })
      }
    })
  }

  static async start(folder: string, blockdevs: readonly object[]): Promise<OracleDaemon> {
    const daemon = new OracleDaemon(folder, blockdevs)
    const reply = await daemon.execute('qmp_capabilities', {})
    if ('error' in reply) {
      throw new Error(`the daemon does not start: ${reply.error.desc}`)
    }
    return daemon
  }

  #take(text: string): void {
    const lines = (this.#rest + text).split('\n')
    this.#rest = lines.pop() ?? ''
    for (const line of lines.filter((one) => one.trim() !== '')) {
      const message = JSON.parse(line) as Record<string, unknown>
      if ('event' in message) {
        this.events.push({ event: String(message.event), data: message.data as Record<string, unknown> })
      } else if (!('QMP' in message)) {
        this.#replies.shift()?.(message as Reply)
      }
    }
  }

  execute(command: string, args: object): Promise<Reply> {
    return new Promise((resolve) => {
      this.#replies.push(resolve)
      this.#process.stdin?.write(`${JSON.stringify({ execute: command, arguments: args })}\n`)
    })
  }

  async close(): Promise<void> {
    const gone = new Promise<void>((resolve) => {
      this.#process.on('exit', () => {
        resolve()
      })
    })
    await this.execute('quit', {})
    await gone
  }
}
