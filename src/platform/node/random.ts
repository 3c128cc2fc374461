import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)

/** `length` random bytes. node:crypto takes some 4 ms to load, so it is loaded when first needed. */
export function randomBytes(length: number): Uint8Array {
  const crypto = require('node:crypto') as typeof import('node:crypto')
  return new Uint8Array(crypto.randomBytes(length))
}
