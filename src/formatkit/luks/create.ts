import { blockError } from '../../errors/index.js'
import type { Host } from '../../host/index.js'
import { keyBytesOf, makeSectorCipher } from '../crypto/index.js'
import {
  keyMaterialBytes,
  type LuksHeader,
  luksAlignment,
  luksSlots,
  luksStripes,
  serializeLuksHeader,
} from './header.js'
import { iterationsPerSecond, scaleIterations } from './iterations.js'
import { keyDigest, type LuksStorage, luksCiphers, saltBytes, sealKey } from './key-slots.js'
import type { LuksCreateOptions } from './options.js'
import { type LuksSpec, luksCipherName } from './spec.js'
import { LuksVolume } from './volume.js'

/** A header that is complete but not written. */
export interface FreshLuks {
  readonly header: LuksHeader
  /** What goes to the first slot's place. */
  readonly material: Uint8Array
  /** Ready for the payload; the caller disposes of it. */
  readonly volume: LuksVolume
}

/** Bytes of header and key material before the payload. */
export function luksPayloadOffset(keyBytes: number): number {
  return luksAlignment + luksSlots * keyMaterialBytes(keyBytes)
}

/** A random UUID (version 4). */
function uuid(random: Uint8Array): string {
  random[6] = ((random[6] as number) & 0x0f) | 0x40
  random[8] = ((random[8] as number) & 0x3f) | 0x80
  const hex = [...random].map((byte) => byte.toString(16).padStart(2, '0')).join('')
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-')
}

function fitting(what: string, name: string): string {
  if (name.length >= 32) {
    throw blockError('EINVAL', `${what} '${name}' is too long for LUKS header`)
  }
  return name
}

/**
 * Makes a header with a new key, locked with `password` in its first slot.
 *
 * @throws BlockError with QEMU's text, before anything is measured or made if the ciphers are unknown
 */
export async function makeLuks(
  host: Host,
  options: LuksCreateOptions,
  password: Uint8Array,
): Promise<FreshLuks> {
  const spec: LuksSpec = options
  const { mode, ivgen, ivHash, hash } = spec
  const cipherName = luksCipherName(spec.cipher)
  const modeSpec = fitting('Cipher mode', `${mode}-${ivgen}${ivHash === undefined ? '' : `:${ivHash}`}`)
  const keyBytes = keyBytesOf(spec)
  const key = host.randomBytes(keyBytes)
  const cipher = makeSectorCipher(host.ciphers, spec, key)
  try {
    const ciphers = luksCiphers(host, hash)
    const digestSalt = host.randomBytes(saltBytes)
    const digestIterations = scaleIterations(
      await iterationsPerSecond(ciphers, hash, 20),
      options.iterTime,
      luksSlots,
    )
    const digest = await keyDigest(ciphers, hash, key, digestSalt, digestIterations)
    const sealed = await sealKey(host, spec, key, password, options.iterTime)
    const header: LuksHeader = {
      cipherName,
      cipherMode: modeSpec,
      hashSpec: hash,
      payloadOffset: luksPayloadOffset(keyBytes),
      keyBytes,
      digest,
      digestSalt,
      digestIterations,
      uuid: uuid(host.randomBytes(16)),
      slots: Array.from({ length: luksSlots }, (_, i) => ({
        active: i === 0,
        iterations: i === 0 ? sealed.iterations : 0,
        salt: i === 0 ? sealed.salt : new Uint8Array(saltBytes),
        keyOffset: luksAlignment + i * keyMaterialBytes(keyBytes),
        stripes: luksStripes,
      })),
    }
    return { header, material: sealed.material, volume: new LuksVolume(header, spec, cipher) }
  } catch (error) {
    cipher.dispose()
    throw error
  } finally {
    key.fill(0)
  }
}

/** Writes a fresh header and its first slot: the slot first, since without it the header is of no use. */
export async function writeLuks(storage: LuksStorage, fresh: FreshLuks): Promise<void> {
  const { header, material } = fresh
  await storage.write(header.slots[0]?.keyOffset ?? luksAlignment, material)
  await storage.write(0, serializeLuksHeader(header))
}
