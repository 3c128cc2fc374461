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
  #peek(): string {
    return this.#text[this.#at] ?? ''
  }

  /** The next token, or undefined at the end. Throws `JSON parse error, stray '%s'`. */
  next(): JsonToken | undefined {
    while (this.#peek() !== '' && ' \t\r\n'.includes(this.#peek())) {
      this.#at++
    }
    this.#start = this.#at
    const char = this.#peek()
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
      while (this.#peek() >= 'a' && this.#peek() <= 'z') {
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

  /** The token so far with the byte that spoils it: of a longer character its first one. */
  #stray() {
    const char = this.#peek()
    return jsonError(`stray '${this.#text.slice(this.#start, this.#at)}${char < '\x80' ? char : '\ufffd'}'`)
  }

  #string(quote: string): JsonToken {
    this.#at++
    while (this.#peek() !== quote) {
      if (this.#peek() === '\\') {
        this.#at++
      }
      // Also at the end of the text.
      if (this.#peek() < ' ') {
        throw this.#stray()
      }
      this.#at++
    }
    this.#at++
    return this.#token('string')
  }

  #digits(): void {
    if (!isDigit(this.#peek())) {
      throw this.#stray()
    }
    while (isDigit(this.#peek())) {
      this.#at++
    }
  }

  #number(): JsonToken {
    if (this.#peek() === '-') {
      this.#at++
    }
    let kind: JsonTokenKind = 'integer'
    const isZero = this.#peek() === '0'
    if (isZero) {
      this.#at++
      if (isDigit(this.#peek())) {
        throw this.#stray()
      }
    } else {
      this.#digits()
    }
    if (this.#peek() === '.') {
      kind = 'float'
      this.#at++
      this.#digits()
    }
    // A bare zero takes no exponent: `0e1` is a zero and a keyword.
    if ((this.#peek() === 'e' || this.#peek() === 'E') && (kind === 'float' || !isZero)) {
      kind = 'float'
      this.#at++
      if (this.#peek() === '+' || this.#peek() === '-') {
        this.#at++
      }
      this.#digits()
    }
    return this.#token(kind)
  }
}
