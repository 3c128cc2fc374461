import { random } from '../image/qemu.js'

/** Part of an image where damage matters: bytes `[from, to)`. */
export type Range = readonly [from: number, to: number]

/** The image with one or two fields overwritten, sometimes cut short. Deterministic. */
export function damaged(image: Uint8Array, ranges: readonly Range[], seed: number): Uint8Array {
  const pick = random(seed)
  const bytes = image.slice()
  for (let field = 0; field < 1 + pick(2); field++) {
    const [from, to] = ranges[pick(ranges.length)] ?? [0, 512]
    const width = [1, 2, 4, 8][pick(4)] ?? 4
    const at = Math.min(bytes.length - width, from + Math.floor(pick(to - from) / width) * width)
    const kind = pick(5)
    for (let i = 0; i < width; i++) {
      bytes[at + i] = kind === 0 ? 0 : kind === 1 ? 255 : kind === 2 ? (i === 0 ? 128 : 0) : pick(256)
    }
  }
  return pick(10) === 0 ? bytes.subarray(0, pick(bytes.length)) : bytes
}
