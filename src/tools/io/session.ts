import { isBlockError, strerror } from '../../errors/index.js'
import { type Backend, type BlockLayer, type OpenFlags, Perm } from '../../graph/index.js'
import type { OptionDict } from '../../options/index.js'
import type { Maybe } from '../../sched/index.js'
import type { ToolContext } from '../context.js'
import { CommandFailure, type IoCommand } from './command.js'

/** Output is handed on when this many characters have come together. */
const outputLimit = 64 * 1024

/** One run of the tool: the open image, requests under way, and buffered output. */
export class IoSession {
  readonly context: ToolContext
  readonly layer: BlockLayer
  /** Every command, by name. */
  readonly commands: readonly IoCommand[]
  readonly #byName = new Map<string, IoCommand>()
  backend: Backend | undefined = undefined
  #output = ''
  /** Results of asynchronous requests that are reported when the loop next turns. */
  #completed: (() => void)[] = []
  readonly #running = new Set<Promise<void>>()

  constructor(context: ToolContext, layer: BlockLayer, commands: readonly IoCommand[]) {
    this.commands = commands
    for (const command of commands) {
      this.#byName.set(command.name, command)
      if (command.alias !== undefined) {
        this.#byName.set(command.alias, command)
      }
    }
    this.context = context
    this.layer = layer
  }

  findCommand(name: string): IoCommand | undefined {
    return this.#byName.get(name)
  }

  /** Buffers text for standard output. */
  write(text: string): void {
    this.#output += text
    if (this.#output.length > outputLimit) {
      this.flushOutput()
    }
  }

  print(line: string): void {
    this.write(`${line}\n`)
  }

  flushOutput(): void {
    if (this.#output !== '') {
      const text = this.#output
      this.#output = ''
      this.context.stdout(text)
    }
  }

  /** Writes to standard error, behind all output so far. */
  stderr(text: string): void {
    this.flushOutput()
    this.context.stderr(text)
  }

  /** `program: text` on standard error. */
  error(text: string): void {
    this.stderr(`${this.context.program}: ${text}\n`)
  }

  get image(): Backend {
    if (this.backend === undefined) {
      throw new Error('no image is open')
    }
    return this.backend
  }

  /** Remembers a request that goes on while commands are read; `done` reports it. */
  later(request: () => Promise<void> | undefined, done: (error: unknown) => void): void {
    let wait: Promise<void> | undefined
    try {
      wait = request()
    } catch (error) {
      this.#completed.push(() => done(error))
      return
    }
    if (wait === undefined) {
      this.#completed.push(() => done(undefined))
      return
    }
    const promise: Promise<void> = wait
      .then(
        () => this.#completed.push(() => done(undefined)),
        (error: unknown) => this.#completed.push(() => done(error)),
      )
      .then(() => {
        this.#running.delete(promise)
      })
    this.#running.add(promise)
  }

  /** Reports asynchronous requests that have completed. */
  deliver(): void {
    if (this.#completed.length > 0) {
      for (const report of this.#completed.splice(0)) {
        report()
      }
    }
  }

  /** Waits for all asynchronous requests. */
  async drain(): Promise<void> {
    while (this.#running.size > 0) {
      await Promise.all(this.#running)
    }
    this.deliver()
  }

  /** Opens an image; says why if it cannot. */
  async open(
    name: string | undefined,
    options: OptionDict,
    flags: Partial<OpenFlags>,
    mode: { readonly writeThrough: boolean; readonly forceShare: boolean },
  ): Promise<boolean> {
    if (this.backend !== undefined) {
      this.error("file open already, try 'help close'")
      return false
    }
    if (mode.forceShare) {
      const given = options.get('force-share')
      if (given !== undefined && given !== 'on' && given !== true) {
        this.error('-U conflicts with image options')
        return false
      }
      options.set('force-share', true)
    }
    try {
      const { Backend } = await import('../../graph/index.js')
      this.backend = await Backend.open(this.layer, name, options, flags, { writeThrough: mode.writeThrough })
    } catch (error) {
      this.report(error, `can't open${name === undefined ? '' : ` device ${name}`}: `)
      return false
    }
    return true
  }

  async close(): Promise<void> {
    await this.drain()
    const { backend } = this
    this.backend = undefined
    await backend?.close()
  }

  /** Prints an error of the block layer with its hint; anything else is thrown again. */
  report(error: unknown, prefix = ''): void {
    if (!isBlockError(error)) {
      throw error
    }
    this.error(prefix + error.message)
    if (error.hint !== undefined) {
      this.stderr(`${error.hint}\n`)
    }
  }

  /** Runs one line; 'failed' if the command did. Done at once where nothing has to be waited for. */
  run(line: string): Maybe<'quit' | 'failed' | undefined> {
    const argv = line.split(' ').filter((word) => word !== '')
    const [name] = argv
    if (name === undefined) {
      return undefined
    }
    const command = this.findCommand(name)
    if (command === undefined) {
      this.stderr(`command "${name}" not found\n`)
      return 'failed'
    }
    if (command.noFile !== true && this.backend === undefined) {
      this.stderr("no file open, try 'help open'\n")
      return 'failed'
    }
    const count = argv.length - 1
    if (count < command.min || (command.max >= 0 && count > command.max)) {
      const expected =
        command.max < 0
          ? `at least ${command.min}`
          : command.min === command.max
            ? `${command.min}`
            : `between ${command.min} and ${command.max}`
      this.stderr(`bad argument count ${count} to ${name}, expected ${expected} arguments\n`)
      return 'failed'
    }
    try {
      const perm = command.perm ?? 0
      const result =
        perm !== 0 && (perm & ~this.image.perm) !== 0
          ? this.#withPermission(command, argv, perm)
          : command.run(this, argv)
      return result instanceof Promise ? result.catch((error: unknown) => this.#failed(error)) : result
    } catch (error) {
      return this.#failed(error)
    }
  }

  async #withPermission(
    command: IoCommand,
    argv: readonly string[],
    perm: number,
  ): Promise<'quit' | undefined> {
    const { image } = this
    if ((perm & Perm.write) !== 0 && image.node.readOnly) {
      this.error('Block node is read-only')
      throw new CommandFailure()
    }
    await image.setPermissions(image.perm | perm, image.shared)
    return await command.run(this, argv)
  }

  #failed(error: unknown): 'failed' {
    if (error instanceof CommandFailure) {
      if (error.text !== undefined) {
        this.print(error.text)
      }
    } else {
      this.report(error)
    }
    return 'failed'
  }

  /** The text of an errno. */
  errnoText(error: unknown): string {
    if (!isBlockError(error)) {
      throw error
    }
    return strerror(error.code)
  }
}
