import { ioError } from '../../errors/index.js'

/**
 * Decodes Apple Data Compression: literals and matches of three forms, told apart by the upper bits.
 *
 * @throws BlockError EIO unless the input holds exactly `output.length` bytes
 */
export function decodeAdc(input: Uint8Array, output: Uint8Array): void {
  let at = 0
  let filled = 0
  while (at < input.length && filled < output.length) {
    const head = input[at] as number
    if (head >= 0x80) {
      const length = head - 0x7f
      if (at + 1 + length > input.length || filled + length > output.length) {
        throw ioError('EIO')
      }
      output.set(input.subarray(at + 1, at + 1 + length), filled)
      at += 1 + length
      filled += length
      continue
    }
    const long = head >= 0x40
    const length = long ? head - 0x40 + 4 : (head >> 2) + 3
    const bytes = long ? 3 : 2
    if (at + bytes > input.length) {
      throw ioError('EIO')
    }
    const second = input[at + 1] as number
    const distance = (long ? (second << 8) | (input[at + 2] as number) : ((head & 3) << 8) | second) + 1
    if (distance > filled || filled + length > output.length) {
      throw ioError('EIO')
    }
    at += bytes
    for (const end = filled + length; filled < end; filled++) {
      output[filled] = output[filled - distance] as number
    }
  }
  if (filled !== output.length || at !== input.length) {
    throw ioError('EIO')
  }
}
