import { type Step, steps } from './matches.js'

/** Compressors for the kinds of blocks of LZFSE, for tests: what they make is valid, not small. */

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value >>> 0)
  return bytes
}

const end = Buffer.from('bvx$')

export function encodeStored(data: Uint8Array): Uint8Array {
  return Buffer.concat([Buffer.from('bvx-'), u32(data.length), data, end])
}

/** A stream of one LZVN block in which every kind of instruction occurs. */
export function encodeLzvn(data: Uint8Array): Uint8Array {
  const out: number[] = []
  let previous = 0
  for (const step of steps(data, { minLength: 3, maxLength: 300, maxLiterals: 271, maxDistance: 65535 })) {
    let { literals } = step
    while (literals.length > 3 || (literals.length > 0 && step.length === 0)) {
      const count = literals.length >= 16 ? Math.min(271, literals.length) : Math.min(15, literals.length)
      out.push(...(count >= 16 ? [0xe0, count - 16] : [0xe0 + count]), ...literals.subarray(0, count))
      literals = literals.subarray(count)
    }
    if (step.length === 0) {
      continue
    }
    const { distance } = step
    const n = literals.length
    // Longer ones would be other instructions.
    let first = Math.min(step.length, [10, 8, 6, 4][n] as number)
    if (distance === previous && n > 0) {
      out.push((n << 6) | ((first - 3) << 3) | 6, ...literals)
    } else if (distance < 1536) {
      out.push((n << 6) | ((first - 3) << 3) | (distance >> 8), distance & 255, ...literals)
    } else if (distance < 16384) {
      first = Math.min(step.length, 34)
      const rest = first - 3
      out.push(0xa0 | (n << 3) | (rest >> 2), ((distance & 63) << 2) | (rest & 3), distance >> 6, ...literals)
    } else {
      out.push((n << 6) | ((first - 3) << 3) | 7, distance & 255, distance >> 8, ...literals)
    }
    previous = distance
    for (let left = step.length - first; left > 0; ) {
      const count = left >= 16 ? Math.min(left, 271) : left
      out.push(...(count >= 16 ? [0xf0, count - 16] : [0xf0 + count]))
      left -= count
    }
    if (out.length % 7 === 0) {
      out.push(0x0e)
    }
  }
  out.push(6, 0, 0, 0, 0, 0, 0, 0)
  return Buffer.concat([Buffer.from('bvxn'), u32(data.length), u32(out.length), Uint8Array.from(out), end])
}

/** Bits written from the least significant on, to be read from the end. */
class Bits {
  readonly bytes: number[] = []
  #held = 0n
  #count = 0n

  push(count: number, value: number): void {
    this.#held |= BigInt(value) << this.#count
    this.#count += BigInt(count)
    while (this.#count >= 8n) {
      this.bytes.push(Number(this.#held & 255n))
      this.#held >>= 8n
      this.#count -= 8n
    }
  }

  /** Bits of the last byte that do not count, 0 to -7. */
  finish(): number {
    if (this.#count === 0n) {
      return 0
    }
    this.bytes.push(Number(this.#held))
    return Number(this.#count) - 8
  }
}

function normalised(counts: readonly number[], states: number): number[] {
  const total = counts.reduce((sum, count) => sum + count, 0)
  if (total === 0) {
    return counts.map((_, i) => (i === 0 ? states : 0))
  }
  const scaled = counts.map((count) => (count === 0 ? 0 : Math.max(1, Math.floor((count * states) / total))))
  const rest = (): number => states - scaled.reduce((sum, one) => sum + one, 0)
  while (rest() !== 0) {
    const largest = scaled.indexOf(Math.max(...scaled))
    scaled[largest] = (scaled[largest] as number) + (rest() > 0 ? rest() : -1)
  }
  return scaled
}

class Encoder {
  readonly frequencies: number[]
  readonly #states: number
  readonly #offsets: number[]
  state = 0

  constructor(states: number, symbols: number, used: readonly number[]) {
    const counts = new Array<number>(symbols).fill(0)
    for (const symbol of used) {
      counts[symbol] = (counts[symbol] as number) + 1
    }
    this.#states = states
    this.frequencies = normalised(counts, states)
    let offset = 0
    this.#offsets = this.frequencies.map((frequency) => {
      offset += frequency
      return offset - frequency
    })
  }

  encode(bits: Bits, symbol: number, state = this.state): number {
    const frequency = this.frequencies[symbol] as number
    const shift = Math.clz32(frequency) - Math.clz32(this.#states)
    const low = state < (frequency << shift) - this.#states
    const count = low ? shift - 1 : shift
    bits.push(count, state & ((1 << count) - 1))
    this.state = (this.#offsets[symbol] as number) - frequency + (this.#states >> count) + (state >> count)
    return this.state
  }
}

const extras = {
  length: [...new Array<number>(16).fill(0), 2, 3, 5, 8],
  match: [...new Array<number>(16).fill(0), 3, 5, 8, 11],
  distance: Array.from({ length: 64 }, (_, i) => i >> 2),
}

function bases(extra: readonly number[]): number[] {
  const result = [0]
  for (const bits of extra) {
    result.push((result.at(-1) as number) + (1 << bits))
  }
  return result
}

function symbolOf(value: number, base: readonly number[]): number {
  return base.findLastIndex((start) => start <= value)
}

/** Each frequency's code: bits and value. */
function frequencyCode(value: number): [bits: number, code: number] {
  const short: [number, number][] = [
    [2, 0],
    [2, 2],
    [3, 1],
    [3, 5],
    [5, 3],
    [5, 11],
    [5, 19],
    [5, 27],
  ]
  if (value < 8) {
    return short[value] as [number, number]
  }
  return value < 24 ? [8, 7 | ((value - 8) << 4)] : [14, 15 | ((value - 24) << 4)]
}

/** A stream of compressed blocks (`bvx2`). */
export function encodeLzfse(data: Uint8Array): Uint8Array {
  const all = steps(data, { minLength: 3, maxLength: 2359, maxLiterals: 315, maxDistance: 262139 })
  const blocks: Uint8Array[] = []
  for (let from = 0; from < all.length; ) {
    let to = from
    let literals = 0
    while (to < all.length && to - from < 4000 && literals + (all[to] as Step).literals.length < 39996) {
      literals += (all[to++] as Step).literals.length
    }
    blocks.push(block(all.slice(from, to)))
    from = to
  }
  return Buffer.concat([...blocks, end])
}

function block(list: readonly Step[]): Uint8Array {
  const literals = Buffer.concat([...list.map((step) => step.literals)])
  const padded = Buffer.concat([literals, Buffer.alloc((4 - (literals.length % 4)) % 4)])
  let last = 0
  const coded = list.map((step) => {
    // A distance of 0 stands for the one before. Literals alone have one, too.
    const real = step.length === 0 ? 1 : step.distance
    const distance = real === last ? 0 : real
    last = real
    return { length: step.literals.length, match: step.length, distance }
  })
  const base = { length: bases(extras.length), match: bases(extras.match), distance: bases(extras.distance) }
  base.length.pop()
  base.match.pop()
  base.distance.pop()
  const kinds = ['distance', 'match', 'length'] as const
  const encoders = {
    length: new Encoder(
      64,
      20,
      coded.map((one) => symbolOf(one.length, base.length)),
    ),
    match: new Encoder(
      64,
      20,
      coded.map((one) => symbolOf(one.match, base.match)),
    ),
    distance: new Encoder(
      256,
      64,
      coded.map((one) => symbolOf(one.distance, base.distance)),
    ),
  }
  const literal = new Encoder(1024, 256, [...padded])
  const literalBits = new Bits()
  const states = [0, 0, 0, 0]
  for (let i = padded.length - 1; i >= 0; i--) {
    states[i & 3] = literal.encode(literalBits, padded[i] as number, states[i & 3])
  }
  const literalSlack = literalBits.finish()
  const bits = new Bits()
  for (const one of [...coded].reverse()) {
    for (const kind of kinds) {
      const symbol = symbolOf(one[kind], base[kind])
      bits.push(extras[kind][symbol] as number, one[kind] - (base[kind][symbol] as number))
      encoders[kind].encode(bits, symbol)
    }
  }
  const slack = bits.finish()
  const table = new Bits()
  for (const encoder of [encoders.length, encoders.match, encoders.distance, literal]) {
    for (const frequency of encoder.frequencies) {
      table.push(...frequencyCode(frequency))
    }
  }
  table.finish()
  const header = new Bits()
  const fields: [number, number][] = [
    [20, padded.length],
    [20, literalBits.bytes.length],
    [20, coded.length],
    [3, literalSlack + 7],
    [1, 0],
    ...states.map((state): [number, number] => [10, state]),
    [20, bits.bytes.length],
    [3, slack + 7],
    [1, 0],
    [32, 32 + table.bytes.length],
    [10, encoders.length.state],
    [10, encoders.match.state],
    [10, encoders.distance.state],
    [2, 0],
  ]
  for (const [count, value] of fields) {
    header.push(count, value)
  }
  const raw = list.reduce((sum, step) => sum + step.literals.length + step.length, 0)
  return Buffer.concat([
    Buffer.from('bvx2'),
    u32(raw),
    Uint8Array.from(header.bytes),
    Uint8Array.from(table.bytes),
    Uint8Array.from(literalBits.bytes),
    Uint8Array.from(bits.bytes),
  ])
}
