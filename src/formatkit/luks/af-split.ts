import type { HashName, HostCiphers } from '../../host/index.js'
import { hashBytes } from '../crypto/index.js'

/**
 * The anti-forensic splitter: blows a key up to many stripes of which every single one is needed to get
 * it back, so that erasing any of them erases the key.
 */

/** Hashes each digest-sized piece of `block` in place, with its number before it. */
function diffuse(ciphers: HostCiphers, hash: HashName, block: Uint8Array): void {
  const size = hashBytes[hash]
  const number = new Uint8Array(4)
  const view = new DataView(number.buffer)
  for (let at = 0; at < block.length; at += size) {
    const piece = block.subarray(at, Math.min(block.length, at + size))
    view.setUint32(0, at / size)
    piece.set(ciphers.digest(hash, number, piece).subarray(0, piece.length))
  }
}

function xor(into: Uint8Array, from: Uint8Array, at: number): void {
  for (let i = 0; i < into.length; i++) {
    into[i] = (into[i] as number) ^ (from[at + i] as number)
  }
}

/**
 * @param random gives that many random bytes
 * @returns `stripes` times as many bytes as `key` has, owned by the caller
 */
export function afSplit(
  ciphers: HostCiphers,
  hash: HashName,
  stripes: number,
  key: Uint8Array,
  random: (bytes: number) => Uint8Array,
): Uint8Array {
  const split = new Uint8Array(key.length * stripes)
  const last = key.length * (stripes - 1)
  split.set(random(last))
  const block = new Uint8Array(key.length)
  for (let at = 0; at < last; at += key.length) {
    xor(block, split, at)
    diffuse(ciphers, hash, block)
  }
  xor(block, key, 0)
  split.set(block, last)
  block.fill(0)
  return split
}

/** The key that {@link afSplit} made `split` from; the caller wipes both. */
export function afMerge(
  ciphers: HostCiphers,
  hash: HashName,
  stripes: number,
  split: Uint8Array,
): Uint8Array {
  const key = new Uint8Array(split.length / stripes)
  const last = key.length * (stripes - 1)
  for (let at = 0; at < last; at += key.length) {
    xor(key, split, at)
    diffuse(ciphers, hash, key)
  }
  xor(key, split, last)
  return key
}
