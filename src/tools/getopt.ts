/** A long option. `value` is what {@link Getopt.next} reports: a short option's letter, or a name of its own. */
export interface LongOption {
  readonly name: string
  readonly argument: boolean
  readonly value: string
}

/** `:` a required argument is missing, `?` unknown or ambiguous; otherwise the option's letter or value. */
export interface ParsedOption {
  readonly option: string
  /** Empty for options without argument. */
  readonly argument: string
}

/**
 * `getopt_long` as the GNU C library has it: options and operands may be mixed (operands are moved to
 * the end of `argv`), letters may be joined (`-Uf raw`), arguments attached (`-fraw`, `--output=json`),
 * long names abbreviated, and `--` ends the options.
 *
 * `argv[0]` is the program's name. `short` follows C: a letter with `:` takes an argument; `+` in front
 * stops at the first operand; `:` then leaves messages to the caller, otherwise `message` gets the
 * library's own.
 */
export class Getopt {
  /** Permuted while options are read. */
  readonly argv: string[]
  /** Index of the next element to look at; after the last option, of the first operand. */
  index = 1
  readonly #short: string
  readonly #long: readonly LongOption[]
  readonly #message: (text: string) => void
  readonly #inOrder: boolean
  readonly #quiet: boolean
  /** What is left of a group of letters. */
  #letters = ''
  /** Operands passed over and not yet moved: `[first, last)`. */
  #firstOperand = 1
  #lastOperand = 1

  constructor(
    argv: readonly string[],
    short: string,
    long: readonly LongOption[],
    message: (text: string) => void = () => undefined,
  ) {
    this.argv = [...argv]
    this.#inOrder = short.startsWith('+')
    const rest = this.#inOrder ? short.slice(1) : short
    this.#quiet = rest.startsWith(':')
    this.#short = rest
    this.#long = long
    this.#message = message
  }

  /** The element that was looked at last, for messages. */
  get previous(): string {
    return this.argv[this.index - 1] ?? ''
  }

  /** What is no option, once {@link next} has returned undefined. */
  get operands(): string[] {
    return this.argv.slice(this.index)
  }

  /** The next option, or undefined after the last. */
  next(): ParsedOption | undefined {
    if (this.#letters === '') {
      if (!this.#findOption()) {
        return undefined
      }
      const element = this.argv[this.index] ?? ''
      if (element.startsWith('--')) {
        return this.#longOption(element.slice(2))
      }
      this.#letters = element.slice(1)
    }
    return this.#letter()
  }

  #isOperand(index: number): boolean {
    const element = this.argv[index] ?? ''
    return !element.startsWith('-') || element === '-'
  }

  /** Moves to the next element that is an option; false at the end. */
  #findOption(): boolean {
    const { argv } = this
    this.#lastOperand = Math.min(this.#lastOperand, this.index)
    this.#firstOperand = Math.min(this.#firstOperand, this.index)
    if (!this.#inOrder) {
      this.#moveOperands()
      while (this.index < argv.length && this.#isOperand(this.index)) {
        this.index++
      }
      this.#lastOperand = this.index
    }
    if (argv[this.index] === '--') {
      this.index++
      this.#moveOperands()
      this.#lastOperand = argv.length
      this.index = argv.length
    }
    if (this.index >= argv.length) {
      if (this.#firstOperand !== this.#lastOperand) {
        this.index = this.#firstOperand
      }
      return false
    }
    return !this.#isOperand(this.index)
  }

  /** Moves the operands passed over behind the options read since. */
  #moveOperands(): void {
    if (this.#lastOperand === this.index) {
      return
    }
    if (this.#firstOperand === this.#lastOperand) {
      this.#firstOperand = this.index
    } else {
      const count = this.#lastOperand - this.#firstOperand
      const operands = this.argv.splice(this.#firstOperand, count)
      this.argv.splice(this.index - count, 0, ...operands)
      this.#firstOperand = this.index - count
    }
    this.#lastOperand = this.index
  }

  #say(text: string): void {
    if (!this.#quiet) {
      this.#message(`${this.argv[0]}: ${text}`)
    }
  }

  #missing(text: string): ParsedOption {
    this.#say(text)
    return { option: this.#quiet ? ':' : '?', argument: '' }
  }

  #letter(): ParsedOption {
    const letter = String.fromCodePoint(this.#letters.codePointAt(0) ?? 0)
    this.#letters = this.#letters.slice(letter.length)
    // C sees bytes: after the first byte of a longer character the element is not used up yet.
    if (this.#letters === '' && letter < '\x80') {
      this.index++
    }
    const place = letter === ':' || letter === ';' ? -1 : this.#short.indexOf(letter)
    if (place < 0) {
      this.#say(`invalid option -- '${letter}'`)
      return { option: '?', argument: '' }
    }
    if (this.#short[place + 1] !== ':') {
      return { option: letter, argument: '' }
    }
    const attached = this.#letters
    this.#letters = ''
    if (attached !== '') {
      this.index++
      return { option: letter, argument: attached }
    }
    const argument = this.argv[this.index]
    if (argument === undefined) {
      return this.#missing(`option requires an argument -- '${letter}'`)
    }
    this.index++
    return { option: letter, argument }
  }

  #longOption(text: string): ParsedOption {
    const equals = text.indexOf('=')
    const name = equals < 0 ? text : text.slice(0, equals)
    const candidates = this.#long.filter((option) => option.name.startsWith(name))
    const exact = candidates.find((option) => option.name === name)
    const [first] = candidates
    this.index++
    const ambiguous = candidates.some(
      (option) => option.argument !== first?.argument || option.value !== first.value,
    )
    if (exact === undefined && ambiguous) {
      const names = candidates.map((option) => ` '--${option.name}'`).join('')
      this.#say(`option '--${text}' is ambiguous; possibilities:${names}`)
      return { option: '?', argument: '' }
    }
    const found = exact ?? first
    if (found === undefined) {
      this.#say(`unrecognized option '--${text}'`)
      return { option: '?', argument: '' }
    }
    if (equals >= 0) {
      if (!found.argument) {
        this.#say(`option '--${found.name}' doesn't allow an argument`)
        return { option: '?', argument: '' }
      }
      return { option: found.value, argument: text.slice(equals + 1) }
    }
    if (!found.argument) {
      return { option: found.value, argument: '' }
    }
    const argument = this.argv[this.index]
    if (argument === undefined) {
      return this.#missing(`option '--${found.name}' requires an argument`)
    }
    this.index++
    return { option: found.value, argument }
  }
}
