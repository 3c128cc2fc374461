import { errnoError } from '../../errors/index.js'
import type { HashName, HostCiphers } from '../../host/index.js'

/** Fewest iterations for a password and for the key's digest. */
export const minIterations = 1000

const maxU32 = 0xffffffff

/** How long a measurement takes at least, milliseconds. */
const measureMs = 20
/** Measurements; the best counts, since other load only makes a run slower. */
const measurements = 3

/**
 * How many PBKDF2 iterations this machine does in a second for a result of `bytes` bytes, as measured
 * now. Takes some 100 ms.
 */
export async function iterationsPerSecond(
  ciphers: HostCiphers,
  hash: HashName,
  bytes: number,
): Promise<number> {
  const password = new Uint8Array(32)
  const salt = new Uint8Array(32)
  let best = 0
  let iterations = 4096
  for (let done = 0; done < measurements; ) {
    const start = performance.now()
    await ciphers.pbkdf2(hash, password, salt, iterations, bytes)
    const ms = Math.max(performance.now() - start, 0.01)
    if (ms < measureMs) {
      iterations = Math.ceil(Math.min(iterations * 10, (iterations * measureMs * 1.5) / ms))
      continue
    }
    best = Math.max(best, (iterations * 1000) / ms)
    done++
  }
  return Math.floor(best)
}

/**
 * Scales a speed to what is to be stored.
 *
 * @param iterTime milliseconds that unlocking shall take; negative numbers count as QEMU's unsigned ones do
 * @param divisor 1, or 8 for the digest, which is computed once per slot tried
 * @throws ERANGE with QEMU's text
 */
export function scaleIterations(perSecond: number, iterTime: number, divisor: number): number {
  const time = iterTime < 0 ? iterTime + 2 ** 64 : iterTime
  if (perSecond * time >= 2 ** 64) {
    throw errnoError('ERANGE', `PBKDF iterations ${perSecond} too large to scale`)
  }
  const scaled = Math.floor(Math.floor((perSecond * time) / 1000) / divisor)
  if (scaled > maxU32) {
    throw errnoError('ERANGE', `PBKDF iterations ${BigInt(scaled)} larger than ${maxU32}`)
  }
  return Math.max(scaled, minIterations)
}
