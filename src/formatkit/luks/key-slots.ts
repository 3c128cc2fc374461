import { blockError } from '../../errors/index.js'
import type { HashName, Host, HostCiphers } from '../../host/index.js'
import { makeSectorCipher } from '../crypto/index.js'
import { afMerge, afSplit } from './af-split.js'
import { type LuksHeader, type LuksSlot, luksStripes } from './header.js'
import { iterationsPerSecond, scaleIterations } from './iterations.js'
import type { LuksSpec } from './spec.js'

/** Where a LUKS header and its key material stand. Offsets are bytes from the header. */
export interface LuksStorage {
  /** Bytes owned by the caller. */
  read(offset: number, bytes: number): Promise<Uint8Array>
  write(offset: number, data: Uint8Array): Promise<void>
  /** Everything written before is durable afterwards. */
  flush(): Promise<void>
}

/** Bytes of the digest that PBKDF2 makes of the master key. */
const digestBytes = 20
export const saltBytes = 32

/** The platform's ciphers, or ENOTSUP if it has none or lacks `hash`. */
export function luksCiphers(host: Host, hash: HashName): HostCiphers {
  const { ciphers } = host
  if (ciphers?.hasHash(hash) !== true) {
    throw blockError('ENOTSUP', `PBKDF does not support hash algorithm ${hash}`)
  }
  return ciphers
}

/** Compares without telling by the time it takes where they differ. */
function sameDigest(a: Uint8Array, b: Uint8Array): boolean {
  let difference = a.length ^ b.length
  for (let i = 0; i < a.length; i++) {
    difference |= (a[i] as number) ^ (b[i] ?? 0)
  }
  return difference === 0
}

export function keyDigest(
  ciphers: HostCiphers,
  hash: HashName,
  key: Uint8Array,
  salt: Uint8Array,
  iterations: number,
): Promise<Uint8Array> {
  return ciphers.pbkdf2(hash, key, salt, iterations, digestBytes)
}

/**
 * Tries a password on a slot.
 *
 * @returns the master key, to be wiped by the caller; undefined if the slot is inactive or has another password
 */
export async function unlockSlot(
  host: Host,
  storage: LuksStorage,
  header: LuksHeader,
  spec: LuksSpec,
  slot: LuksSlot,
  password: Uint8Array,
): Promise<Uint8Array | undefined> {
  if (!slot.active) {
    return undefined
  }
  const ciphers = luksCiphers(host, spec.hash)
  const slotKey = await ciphers.pbkdf2(spec.hash, password, slot.salt, slot.iterations, header.keyBytes)
  let split: Uint8Array | undefined
  let key: Uint8Array | undefined
  try {
    // Both factors are checked when the header is parsed: 64 bytes by 4000 stripes at most.
    split = await storage.read(slot.keyOffset, materialSectors(header.keyBytes, slot.stripes))
    const cipher = makeSectorCipher(ciphers, spec, slotKey)
    try {
      cipher.decrypt(0, split, 0, split.length)
    } finally {
      cipher.dispose()
    }
    const material = split.subarray(0, header.keyBytes * slot.stripes)
    key = afMerge(ciphers, spec.hash, slot.stripes, material)
    const digest = await keyDigest(ciphers, spec.hash, key, header.digestSalt, header.digestIterations)
    if (sameDigest(digest, header.digest)) {
      const found = key
      key = undefined
      return found
    }
    return undefined
  } finally {
    slotKey.fill(0)
    split?.fill(0)
    key?.fill(0)
  }
}

/** Material in whole sectors: what the cipher works on. */
function materialSectors(keyBytes: number, stripes: number): number {
  return Math.ceil((keyBytes * stripes) / 512) * 512
}

/**
 * Tries a password on all slots.
 *
 * @returns the master key, to be wiped by the caller
 * @throws EACCES `Invalid password, cannot unlock any keyslot`
 */
export async function unlockAny(
  host: Host,
  storage: LuksStorage,
  header: LuksHeader,
  spec: LuksSpec,
  password: Uint8Array,
): Promise<Uint8Array> {
  for (const slot of header.slots) {
    const key = await unlockSlot(host, storage, header, spec, slot, password)
    if (key !== undefined) {
      return key
    }
  }
  throw blockError('EACCES', 'Invalid password, cannot unlock any keyslot')
}

/** A slot's new state and the bytes for its place. */
export interface SealedSlot {
  readonly iterations: number
  readonly salt: Uint8Array
  readonly material: Uint8Array
}

/**
 * Locks the master key with a password. Nothing is written.
 *
 * @param iterTime milliseconds that unlocking shall take
 */
export async function sealKey(
  host: Host,
  spec: LuksSpec,
  key: Uint8Array,
  password: Uint8Array,
  iterTime: number,
): Promise<SealedSlot> {
  const ciphers = luksCiphers(host, spec.hash)
  const salt = host.randomBytes(saltBytes)
  const iterations = scaleIterations(await iterationsPerSecond(ciphers, spec.hash, key.length), iterTime, 1)
  const slotKey = await ciphers.pbkdf2(spec.hash, password, salt, iterations, key.length)
  try {
    const cipher = makeSectorCipher(ciphers, spec, slotKey)
    try {
      const split = afSplit(ciphers, spec.hash, luksStripes, key, (bytes) => host.randomBytes(bytes))
      const material = new Uint8Array(materialSectors(key.length, luksStripes))
      material.set(split)
      split.fill(0)
      cipher.encrypt(0, material, 0, material.length)
      return { iterations, salt, material: material.subarray(0, key.length * luksStripes) }
    } finally {
      cipher.dispose()
    }
  } finally {
    slotKey.fill(0)
  }
}
