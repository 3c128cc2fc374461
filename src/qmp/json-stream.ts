import { type BlockError, blockError, isBlockError } from '../errors/index.js'
import { parseJson } from '../options/index.js'
import { JsonNumber, type WireValue } from './json-number.js'

export interface JsonStreamHandlers {
  message(value: WireValue): void
  /** Text that is no JSON. What follows is read on. */
  error(error: BlockError): void
}

/** Bytes that one message may have, blanks between tokens not counted. */
export const maxMessageBytes = 16 * 1024 * 1024
const maxTokens = 256 * 1024
const maxNesting = 1024

const code = (char: string): number => char.charCodeAt(0)
const [quote, apostrophe, backslash] = [code('"'), code("'"), code('\\')]
const [zero, minus, point, plus] = [code('0'), code('-'), code('.'), code('+')]
const braces = [code('{'), code('}')] as const
const brackets = [code('['), code(']')] as const
const punctuation = new Set([...braces, ...brackets, code(':'), code(',')])
const blanks = new Set([0x20, 0x09, 0x0d, 0x0a])

const isDigit = (byte: number): boolean => byte >= 0x30 && byte <= 0x39
const isLetter = (byte: number): boolean => byte >= 0x61 && byte <= 0x7a
/** Bytes that stand nowhere in UTF-8. */
const isImpossible = (byte: number): boolean => byte >= 0xfe

/** Where in a token the stream is. */
type State =
  | 'start'
  | 'string'
  | 'escape'
  | 'keyword'
  | 'sign'
  | 'zero'
  | 'digits'
  | 'point'
  | 'fraction'
  | 'exponent'
  | 'exponent-sign'
  | 'exponent-digits'
  | 'recovery'

/**
 * Cuts a stream of bytes into JSON values by QEMU's rules, as soon as each is complete: where braces and
 * brackets balance, or never will. Keeps at most {@link maxMessageBytes} of an unfinished value. After
 * an error it goes on at the next brace, bracket, colon, comma or control character.
 */
export class JsonStream {
  readonly #handlers: JsonStreamHandlers
  #state: State = 'start'
  /** The bytes of the message so far, blanks between tokens left out where they mean nothing. */
  #buffer = new Uint8Array(1024)
  #length = 0
  #tokenStart = 0
  #tokens = 0
  #braces = 0
  #brackets = 0
  #stringEnd = quote

  constructor(handlers: JsonStreamHandlers) {
    this.#handlers = handlers
  }

  /** Takes the next bytes; the buffer is the caller's again afterwards. */
  feed(bytes: Uint8Array, offset = 0, length = bytes.length - offset): void {
    for (let at = offset; at < offset + length; at++) {
      const byte = bytes[at] as number
      // A byte may end a token that it does not belong to: it is looked at again.
      while (!this.#take(byte)) {}
    }
  }

  /** False: the byte is still to be taken. */
  #take(byte: number): boolean {
    switch (this.#state) {
      case 'start':
        return this.#begin(byte)
      case 'string':
        return this.#inString(byte)
      case 'escape':
        return byte < 0x20 || isImpossible(byte) ? this.#stray(byte) : this.#go('string', byte)
      case 'keyword':
        return isLetter(byte) ? this.#go('keyword', byte) : this.#endToken()
      case 'sign':
        if (byte === zero) {
          return this.#go('zero', byte)
        }
        return isDigit(byte) ? this.#go('digits', byte) : this.#stray(byte)
      case 'zero':
        if (isDigit(byte)) {
          return this.#stray(byte)
        }
        return byte === point ? this.#go('point', byte) : this.#endToken()
      case 'recovery':
        return this.#recover(byte)
      default:
        return this.#inNumber(byte)
    }
  }

  #inString(byte: number): boolean {
    if (byte === this.#stringEnd) {
      this.#append(byte)
      this.#endToken()
      return true
    }
    if (byte < 0x20 || isImpossible(byte)) {
      return this.#stray(byte)
    }
    return this.#go(byte === backslash ? 'escape' : 'string', byte)
  }

  #inNumber(byte: number): boolean {
    const isExponent = byte === 0x65 || byte === 0x45
    switch (this.#state) {
      case 'digits':
        if (isDigit(byte)) {
          return this.#go('digits', byte)
        }
        if (byte === point) {
          return this.#go('point', byte)
        }
        return isExponent ? this.#go('exponent', byte) : this.#endToken()
      case 'point':
        return isDigit(byte) ? this.#go('fraction', byte) : this.#stray(byte)
      case 'fraction':
        if (isDigit(byte)) {
          return this.#go('fraction', byte)
        }
        return isExponent ? this.#go('exponent', byte) : this.#endToken()
      case 'exponent':
        if (byte === plus || byte === minus) {
          return this.#go('exponent-sign', byte)
        }
        return isDigit(byte) ? this.#go('exponent-digits', byte) : this.#stray(byte)
      case 'exponent-sign':
        return isDigit(byte) ? this.#go('exponent-digits', byte) : this.#stray(byte)
      default:
        return isDigit(byte) ? this.#go('exponent-digits', byte) : this.#endToken()
    }
  }

  #begin(byte: number): boolean {
    this.#tokenStart = this.#length
    if (blanks.has(byte)) {
      return true
    }
    if (punctuation.has(byte)) {
      this.#append(byte)
      this.#endToken(byte)
      return true
    }
    if (byte === quote || byte === apostrophe) {
      this.#stringEnd = byte
      return this.#go('string', byte)
    }
    if (isLetter(byte)) {
      return this.#go('keyword', byte)
    }
    if (byte === minus) {
      return this.#go('sign', byte)
    }
    if (byte === zero) {
      return this.#go('zero', byte)
    }
    return isDigit(byte) ? this.#go('digits', byte) : this.#stray(byte)
  }

  #recover(byte: number): boolean {
    if ((byte < 0x20 && byte !== 0x09) || punctuation.has(byte) || isImpossible(byte)) {
      this.#state = 'start'
      return false
    }
    return true
  }

  #go(state: State, byte: number): true {
    this.#state = state
    this.#append(byte)
    return true
  }

  #append(byte: number): void {
    if (this.#length === this.#buffer.length) {
      const larger = new Uint8Array(Math.min(this.#length * 2, maxMessageBytes + 16))
      larger.set(this.#buffer)
      this.#buffer = larger
    }
    this.#buffer[this.#length++] = byte
    if (this.#length > maxMessageBytes) {
      this.#state = 'recovery'
      this.#fail(blockError('EINVAL', 'JSON token size limit exceeded'))
    }
  }

  #stray(byte: number): true {
    this.#append(byte)
    const token = this.#buffer.subarray(this.#tokenStart, this.#length)
    const text = new TextDecoder().decode(token)
    this.#state = 'recovery'
    this.#fail(blockError('EINVAL', `JSON parse error, stray '${text}'`))
    return true
  }

  /** A token is complete. Always returns false, for a byte that is not part of it. */
  #endToken(structural = 0): false {
    this.#state = 'start'
    this.#tokens++
    this.#braces += structural === braces[0] ? 1 : structural === braces[1] ? -1 : 0
    this.#brackets += structural === brackets[0] ? 1 : structural === brackets[1] ? -1 : 0
    if (this.#tokens > maxTokens) {
      this.#fail(blockError('EINVAL', 'JSON token count limit exceeded'))
    } else if (this.#braces + this.#brackets > maxNesting) {
      this.#fail(blockError('EINVAL', 'JSON nesting depth limit exceeded'))
    } else if (this.#braces < 0 || this.#brackets < 0 || (this.#braces === 0 && this.#brackets === 0)) {
      this.#message()
    } else if (this.#length > 0) {
      // Tokens must stay apart.
      this.#append(0x20)
    }
    return false
  }

  #message(): void {
    const bytes = this.#buffer.subarray(0, this.#length)
    let value: WireValue
    try {
      value = parseMessage(bytes)
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
      this.#fail(error)
      return
    }
    this.#reset()
    this.#handlers.message(value)
  }

  #fail(error: BlockError): void {
    this.#reset()
    this.#handlers.error(error)
  }

  #reset(): void {
    this.#length = 0
    this.#tokenStart = 0
    this.#tokens = 0
    this.#braces = 0
    this.#brackets = 0
    if (this.#buffer.length > 64 * 1024) {
      this.#buffer = new Uint8Array(1024)
    }
  }
}

function parseMessage(bytes: Uint8Array): WireValue {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw blockError('EINVAL', 'JSON parse error, invalid UTF-8 sequence in string')
  }
  return parseJson<JsonNumber>(text, numberOf)
}

function numberOf(text: string): number | JsonNumber {
  const value = Number(text)
  return /^-?\d+$/.test(text) && Number.isSafeInteger(value) ? value : new JsonNumber(text)
}
