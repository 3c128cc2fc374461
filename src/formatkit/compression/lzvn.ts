import { ioError } from '../../errors/index.js'

function corrupt(): never {
  throw ioError('EIO')
}

/** What an opcode stands for. */
const Kind = {
  small: 0,
  medium: 1,
  large: 2,
  previous: 3,
  literal: 4,
  match: 5,
  nothing: 6,
  end: 7,
  bad: 8,
} as const

const kinds = new Uint8Array(256)
for (let opcode = 0; opcode < 256; opcode++) {
  kinds[opcode] = kindOf(opcode)
}

function kindOf(opcode: number): number {
  if (opcode >= 0xf0) {
    return Kind.match
  }
  if (opcode >= 0xe0) {
    return Kind.literal
  }
  if (opcode >= 0xa0 && opcode < 0xc0) {
    return Kind.medium
  }
  if ((opcode >= 0x70 && opcode < 0x80) || opcode >= 0xd0) {
    return Kind.bad
  }
  if ((opcode & 7) === 7) {
    return Kind.large
  }
  if ((opcode & 7) !== 6) {
    return Kind.small
  }
  if (opcode >= 0x40) {
    return Kind.previous
  }
  return opcode === 0x06 ? Kind.end : opcode === 0x0e || opcode === 0x16 ? Kind.nothing : Kind.bad
}

/**
 * Decodes the LZVN payload `input[from, to)` into `out[at, end)`, all of it. Matches may reach back to the
 * start of `out`.
 *
 * @throws BlockError EIO if it is corrupt
 */
export function decodeLzvn(
  input: Uint8Array,
  from: number,
  to: number,
  out: Uint8Array,
  at: number,
  end: number,
): void {
  let position = at
  let distance = 0
  for (let source = from; ; ) {
    if (source >= to) {
      corrupt()
    }
    const opcode = input[source] as number
    const next = source + 1 < to ? (input[source + 1] as number) : 0
    const third = source + 2 < to ? (input[source + 2] as number) : 0
    let bytes = 1
    let literals = opcode >> 6
    let length = ((opcode >> 3) & 7) + 3
    switch (kinds[opcode]) {
      case Kind.small:
        bytes = 2
        distance = ((opcode & 7) << 8) | next
        break
      case Kind.medium:
        bytes = 3
        literals = (opcode >> 3) & 3
        length = (((opcode & 7) << 2) | (next & 3)) + 3
        distance = ((third << 8) | next) >> 2
        break
      case Kind.large:
        bytes = 3
        distance = (third << 8) | next
        break
      case Kind.previous:
        break
      case Kind.literal:
        bytes = opcode === 0xe0 ? 2 : 1
        literals = opcode === 0xe0 ? next + 16 : opcode & 15
        length = 0
        break
      case Kind.match:
        bytes = opcode === 0xf0 ? 2 : 1
        literals = 0
        length = opcode === 0xf0 ? next + 16 : opcode & 15
        break
      case Kind.nothing:
        literals = 0
        length = 0
        break
      case Kind.end:
        if (position !== end) {
          corrupt()
        }
        return
      default:
        corrupt()
    }
    source += bytes
    if (source + literals > to || literals + length > end - position) {
      corrupt()
    }
    for (let i = 0; i < literals; i++) {
      out[position++] = input[source++] as number
    }
    if (length > 0) {
      if (distance === 0 || distance > position) {
        corrupt()
      }
      for (const stop = position + length; position < stop; position++) {
        out[position] = out[position - distance] as number
      }
    }
  }
}
