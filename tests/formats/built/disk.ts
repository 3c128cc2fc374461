/** A disk of text, noise and zeroes in pieces of uneven length, each sector told from the others. */
export function sampleDisk(bytes: number, seed = 1): Uint8Array {
  const disk = new Uint8Array(bytes)
  let state = seed >>> 0
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state >>> 8
  }
  const text = new TextEncoder().encode('All work and no play makes Jack a dull boy. ')
  for (let at = 0; at < bytes; ) {
    const run = Math.min(bytes - at, 512 * (1 + (next() % 40)))
    const kind = next() % 3
    for (let i = 0; i < run && kind !== 2; i++) {
      disk[at + i] = kind === 0 ? next() : (text[i % text.length] as number) + ((at + i) >>> 12)
    }
    at += run
  }
  return disk
}
