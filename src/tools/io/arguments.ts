import { maxRequestBytes } from '../../io/index.js'
import { parseInteger, parseSizeExact } from '../../options/index.js'
import { CommandFailure } from './command.js'

const largest = (1n << 63n) - 1n

/**
 * A size or offset in bytes, with QEMU's suffixes.
 *
 * @throws CommandFailure with what is wrong
 */
export function sizeArgument(text: string): number {
  const size = parseSizeExact(text)
  if (size === 'invalid') {
    throw new CommandFailure(
      `Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- ${text}`,
    )
  }
  if (size === 'too-large' || size > largest) {
    throw new CommandFailure(`Parsing error: argument too large -- ${text}`)
  }
  return Number(size)
}

/** A size that fits into one request. @throws CommandFailure */
export function lengthArgument(text: string): number {
  const bytes = sizeArgument(text)
  if (bytes > maxRequestBytes) {
    throw new CommandFailure(`length cannot exceed ${maxRequestBytes}, given ${text}`)
  }
  return bytes
}

/** The sum of the lengths of a vector. @throws CommandFailure */
export function vectorLength(texts: readonly string[]): number {
  let total = 0
  for (const text of texts) {
    const bytes = sizeArgument(text)
    if (bytes > maxRequestBytes) {
      throw new CommandFailure(`Argument '${text}' exceeds maximum size ${maxRequestBytes}`)
    }
    if (total > maxRequestBytes - bytes) {
      throw new CommandFailure(`The total number of bytes exceed the maximum size ${maxRequestBytes}`)
    }
    total += bytes
  }
  return total
}

/** A byte to fill buffers with. @throws CommandFailure */
export function patternArgument(text: string): number {
  const value = parseInteger(text)
  if (typeof value !== 'bigint' || value < 0n || value > 255n) {
    throw new CommandFailure(`${text} is not a valid pattern byte`)
  }
  return Number(value)
}
