import { blockError } from '../errors/index.js'

export type JsonTokenKind = '{' | '}' | '[' | ']' | ':' | ',' | 'string' | 'integer' | 'float' | 'keyword'

export interface JsonToken {
  readonly kind: JsonTokenKind
  /** As it stands in the input, quotes included. */
  readonly text: string
}

/** An error in JSON text; QEMU's wording. */
export function jsonError(text: string) {
  return blockError('EINVAL', `JSON parse error, ${text}`)
}

function isDigit(char: string): boolean {
  return char >= '0' && char <= '9'
}

/** Splits JSON text into tokens by QEMU's rules: strings may also stand in single quotes. */
export class JsonLexer {
  readonly #text: string
  #at = 0
  #start = 0

  constructor(text: string) {
    this.#text = text
  }

  /** The character at hand; empty at the end. */
  get #char(): string {
    return this.#text[this.#at] ?? ''
  }

  /** The next token, or undefined at the end. Throws `JSON parse error, stray '%s'`. */
  next(): JsonToken | undefined {
    while (this.#char !== '' && ' \t\r\n'.includes(this.#char)) {
      this.#at++
    }
    this.#start = this.#at
    const char = this.#char
    if (char === '') {
      return undefined
    }
    if ('{}[]:,'.includes(char)) {
      this.#at++
      return this.#token(char as JsonTokenKind)
    }
    if (char === '"' || char === "'") {
      return this.#string(char)
    }
    if (char >= 'a' && char <= 'z') {
      while (this.#char >= 'a' && this.#char <= 'z') {
        this.#at++
      }
      return this.#token('keyword')
    }
    if (char === '-' || isDigit(char)) {
      return this.#number()
    }
    throw this.#stray()
  }

  #token(kind: JsonTokenKind): JsonToken {
    return { kind, text: this.#text.slice(this.#start, this.#at) }
  }

  /** The token so far with the character that spoils it. */
  #stray() {
    const code = this.#text.codePointAt(this.#at)
    const end = this.#at + (code === undefined ? 0 : String.fromCodePoint(code).length)
    return jsonError(`stray '${this.#text.slice(this.#start, end)}'`)
  }

  #string(quote: string): JsonToken {
    this.#at++
    while (this.#char !== quote) {
      if (this.#char === '\\') {
        this.#at++
      }
      // Also at the end of the text.
      if (this.#char < ' ') {
        throw this.#stray()
      }
      this.#at++
    }
    this.#at++
    return this.#token('string')
  }

  #digits(): void {
    if (!isDigit(this.#char)) {
      throw this.#stray()
    }
    while (isDigit(this.#char)) {
      this.#at++
    }
  }

  #number(): JsonToken {
    if (this.#char === '-') {
      this.#at++
    }
    let kind: JsonTokenKind = 'integer'
    const isZero = this.#char === '0'
    if (isZero) {
      this.#at++
      if (isDigit(this.#char)) {
        throw this.#stray()
      }
    } else {
      this.#digits()
    }
    if (this.#char === '.') {
      kind = 'float'
      this.#at++
      this.#digits()
    }
    // A bare zero takes no exponent: `0e1` is a zero and a keyword.
    if ((this.#char === 'e' || this.#char === 'E') && (kind === 'float' || !isZero)) {
      kind = 'float'
      this.#at++
      if (this.#char === '+' || this.#char === '-') {
        this.#at++
      }
      this.#digits()
    }
    return this.#token(kind)
  }
}
