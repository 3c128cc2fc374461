/** Lines that the I/O commands print. */

import { fixedText } from '../../bytes/index.js'

const units = ['', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'] as const

/** A number of bytes as `qemu-io` prints it: `1 MiB`, `1.500 KiB`, `512 bytes`, `0.5 bytes`. */
export function amountText(value: number): string {
  let unit = 0
  while (unit < 6 && value >= 1024 ** (unit + 1)) {
    unit++
  }
  const text = unit === 0 ? fixedText(value, 6) : fixedText(value / 1024 ** unit, 3)
  const trimmed = text.replace(/\.000.*$/, '')
  return `${trimmed} ${unit === 0 ? 'bytes' : units[unit]}`
}

function two(value: number): string {
  return String(Math.floor(value)).padStart(2, '0')
}

/** A duration; `fixed` is the form with all fields, for machines. */
function durationText(seconds: number, fixed: boolean): string {
  const hours = Math.floor(seconds / 3600)
  const minutes = Math.floor(seconds / 60) % 60
  const rest = Math.floor(seconds) % 60
  const hundredths = two((seconds % 1) * 100)
  if (fixed || hours > 0) {
    return `${hours}:${two(minutes)}:${two(rest)}.${hundredths}`
  }
  return minutes > 0 ? `${minutes}:${two(rest)}.${hundredths}` : `${two(rest)}.${hundredths} sec`
}

/** What a request did, for {@link reportText}. */
export interface Report {
  readonly operation: 'read' | 'wrote' | 'discard' | 'discarded '
  readonly milliseconds: number
  readonly offset: number
  /** Bytes asked for and done. */
  readonly bytes: number
  /** `-C`: one line of comma-separated values. */
  readonly machine: boolean
}

/** The lines printed after a request, each with its newline. */
export function reportText({ operation, milliseconds, offset, bytes, machine }: Report): string {
  // A clock that did not move must not make the rates infinite.
  const seconds = Math.max(milliseconds, 0.001) / 1000
  const time = durationText(seconds, machine)
  if (machine) {
    return `${bytes},1,${time},${(bytes / seconds).toFixed(3)},${(1 / seconds).toFixed(3)}\n`
  }
  return (
    `${operation} ${bytes}/${bytes} bytes at offset ${offset}\n` +
    `${amountText(bytes)}, 1 ops; ${time} (${amountText(bytes / seconds)}/sec and ` +
    `${(1 / seconds).toFixed(4)} ops/sec)\n`
  )
}

/** A hex dump, 16 bytes a line; letters and digits are shown as they are. `offset` is that of the first byte. */
export function dumpText(buffer: Uint8Array, offset: number): string {
  let text = ''
  for (let at = 0; at < buffer.length; at += 16) {
    let hex = ''
    let plain = ''
    for (const byte of buffer.subarray(at, at + 16)) {
      hex += `${byte.toString(16).padStart(2, '0')} `
      const character = String.fromCharCode(byte)
      plain += /[0-9A-Za-z]/.test(character) ? character : '.'
    }
    text += `${(offset + at).toString(16).padStart(8, '0')}:  ${hex} ${plain}\n`
  }
  return text
}
