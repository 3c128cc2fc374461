import { blockError, isBlockError, strerror } from '../../errors/index.js'
import type { BlockLayer } from '../../graph/index.js'
import type { ImageSpec } from '../../image/index.js'
import { appendOptionText, parseImageOptions, parseSizeExact, sizeWarning } from '../../options/index.js'
import { type ToolContext, ToolExit } from '../context.js'
import { driverLine } from '../driver-line.js'
import { Getopt, type LongOption, type ParsedOption } from '../getopt.js'
import { addObject } from '../objects.js'

/** A command of the tool. */
export interface ImgCommand {
  /** `argv[0]` is the command's name. Returns the exit code. */
  run(argv: readonly string[], tool: ImgTool): Promise<number>
}

/** How a command reads its options. */
export interface CommandOptions {
  /** Letters as `getopt` takes them. */
  readonly short: string
  readonly long: readonly LongOption[]
  /** Called for each option but those every command has. */
  readonly option: (option: ParsedOption) => void
  /** Exit code when an object cannot be made; default 1. */
  readonly objectFailure?: number
}

/** A long option without argument; `value` defaults to its name. */
export function flag(name: string, value: string = name): LongOption {
  return { name, argument: false, value }
}

/** A long option with an argument. */
export function valued(name: string, value: string = name): LongOption {
  return { name, argument: true, value }
}

/** 2^63-1: what QEMU's sizes end at. */
const maxSize = (1n << 63n) - 1n

/** What the commands have in common: messages, options, images by name. */
export class ImgTool {
  readonly context: ToolContext
  #layer: Promise<BlockLayer> | undefined
  #closeLayer: () => Promise<void> = async () => undefined
  /** `--debug`: stack traces with errors. */
  debug = false

  constructor(context: ToolContext) {
    this.context = context
  }

  /** The block layer of this run, made when first needed. */
  layer(): Promise<BlockLayer> {
    this.#layer ??= this.#makeLayer()
    return this.#layer
  }

  async #makeLayer(): Promise<BlockLayer> {
    const layer = await this.context.createLayer((line) =>
      this.context.stderr(driverLine(this.context.program, line)),
    )
    this.#closeLayer = () => layer.closeAll()
    return layer
  }

  close(): Promise<void> {
    return this.#closeLayer()
  }

  print(line: string): void {
    this.context.stdout(`${line}\n`)
  }

  /** `program: text` on standard error. */
  error(text: string): void {
    this.context.stderr(`${this.context.program}: ${text}\n`)
  }

  warn(text: string, hint?: string): void {
    this.error(`warning: ${text}`)
    if (hint !== undefined) {
      this.context.stderr(`${hint}\n`)
    }
  }

  /** Prints an error of the block layer with its hint; anything else is thrown again. */
  report(error: unknown, prefix = ''): void {
    if (!isBlockError(error)) {
      throw error
    }
    if (this.context.signal.aborted) {
      // The user knows.
      return
    }
    this.error(prefix + error.message)
    if (error.hint !== undefined) {
      // QEMU forgot the end of this line.
      this.context.stderr(error.hint + (error.hint.startsWith('Detected format of ') ? '' : '\n'))
    }
    if (this.debug) {
      this.stack(error)
    }
  }

  /** Where an error comes from, with its causes. */
  stack(error: unknown): void {
    for (let at = error; at instanceof Error; at = at.cause) {
      this.context.stderr(`${at === error ? '' : 'caused by '}${at.stack ?? at.message}\n`)
    }
  }

  /** Prints an error and ends the program. */
  fail(text: string, code = 1): never {
    this.error(text)
    throw new ToolExit(code)
  }

  /** Ends the program because of how it was called. */
  usage(text: string): never {
    this.error(text)
    this.context.stderr(`Try '${this.context.program} --help' for more information\n`)
    throw new ToolExit(1)
  }

  /** Shows the help and ends the program. */
  async help(): Promise<never> {
    const { helpText } = await import('./help.js')
    const layer = await this.layer()
    this.context.stdout(helpText(this.context.program, layer.formatNames()))
    throw new ToolExit(0)
  }

  /** Reads the options of a command and returns its operands. */
  async readOptions(argv: readonly string[], command: CommandOptions): Promise<string[]> {
    const long = [flag('help', 'h'), ...command.long, flag('debug')]
    const messages = (text: string) => this.context.stderr(`${text}\n`)
    const getopt = new Getopt(argv, command.short, long, messages)
    for (let next = getopt.next(); next !== undefined; next = getopt.next()) {
      switch (next.option) {
        case ':':
          this.usage(`missing argument for option '${getopt.previous}'`)
          break
        case '?':
          if (command.short.startsWith(':')) {
            this.usage(`unrecognized option '${getopt.previous}'`)
          }
          await this.help()
          break
        case 'h':
          await this.help()
          break
        case 'debug':
          this.debug = true
          break
        case 'object':
          await this.#addObject(next.argument, command.objectFailure ?? 1)
          break
        default:
          command.option(next)
      }
    }
    return getopt.operands
  }

  async #addObject(text: string, failure: number): Promise<void> {
    let lines: readonly string[] | undefined
    try {
      lines = addObject(await this.layer(), text)
    } catch (error) {
      this.report(error)
      throw new ToolExit(failure)
    }
    if (lines !== undefined) {
      this.context.stdout(`${lines.join('\n')}\n`)
      throw new ToolExit(0)
    }
  }

  /** A size from the command line, bytes; ends the program if it is none or out of range. */
  size(name: string, text: string, min = 0n, max = maxSize): number {
    const warning = sizeWarning(text)
    if (warning !== undefined) {
      this.warn(warning)
    }
    const size = parseSizeExact(text)
    if (size === 'invalid') {
      this.error(`Invalid ${name} specified. You may use k, M, G, T, P or E suffixes for`)
      this.fail('kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.')
    }
    if (size === 'too-large' || size < min || size > max) {
      this.fail(`Invalid ${name} specified. Must be between ${min} and ${max}.`)
    }
    return Number(size)
  }

  /** The texts of several `-o` as one; ends the program if one is not a list of its own. */
  appendOptions(before: string | undefined, text: string): string {
    try {
      return appendOptionText(before, text)
    } catch (error) {
      this.report(error)
      throw new ToolExit(1)
    }
  }

  /** `human` or `json` as given by `--output`. */
  isJson(output: string | undefined): boolean {
    if (output !== undefined && output !== 'json' && output !== 'human') {
      this.fail('--output must be used with human or json as argument.')
    }
    return output === 'json'
  }

  /**
   * An image as the command line names it: by file name, or by options with `--image-opts`.
   *
   * @throws BlockError EINVAL
   */
  imageSpec(name: string, image: ImageArguments): ImageSpec {
    const { imageOpts, format, forceShare } = image
    const share = forceShare === true ? { forceShare } : {}
    if (imageOpts !== true) {
      const filename = this.context.extras === true && format === undefined ? readThrough(name) : name
      return { filename, ...(format === undefined ? {} : { format }), ...share }
    }
    if (format !== undefined) {
      throw blockError('EINVAL', '--image-opts and --format are mutually exclusive')
    }
    const { options, warnings } = parseImageOptions(name)
    for (const { text, hint } of warnings) {
      this.warn(text, hint)
    }
    return { options, label: name, ...share }
  }

  /** The text of an errno, for messages that end in one. */
  errnoText(error: unknown): string {
    if (!isBlockError(error)) {
      throw error
    }
    return strerror(error.code)
  }
}

/** A plain name with the suffix of a compressed file or a package, as the name of what the file holds. */
function readThrough(name: string): string {
  const isCompressed = /\.(gz|xz|bz2|zst)$/i.test(name) && !/^[^/:]*:/.test(name)
  const isPackage = /\.ova$/i.test(name) && !/^[^/:]*:/.test(name)
  return isPackage ? `ova:${name}` : isCompressed ? `compressed:${name}` : name
}

/** The options that say how an image is named and opened. */
export interface ImageArguments {
  readonly imageOpts?: boolean
  readonly format?: string | undefined
  readonly forceShare?: boolean
}
