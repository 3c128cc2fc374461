import { blockError } from '../../errors/index.js'

/** The header of LUKS version 1 (the LUKS On-Disk Format Specification 1.2). Big endian on disk. */

export const luksMagic = [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe] as const
export const luksVersion = 1
/** Bytes of the header with its eight key slots. */
export const luksHeaderBytes = 592
export const luksSlots = 8
/** Copies of a key that the anti-forensic splitter makes. */
export const luksStripes = 4000
export const luksSectorBytes = 512
/** Key material is aligned to this, bytes: the header comes first. */
export const luksAlignment = 4096

const slotEnabled = 0x00ac71f3
const slotDisabled = 0x0000dead
const saltBytes = 32
const digestBytes = 20
const firstSlotAt = 208
const slotBytes = 48

export interface LuksSlot {
  active: boolean
  iterations: number
  /** 32 bytes. */
  salt: Uint8Array
  /** Where the key material stands, bytes from the header. */
  keyOffset: number
  stripes: number
}

/** Offsets and lengths are bytes. Names are as they stand in the image. */
export interface LuksHeader {
  readonly cipherName: string
  /** Mode, vectors and their hash, such as `xts-plain64` or `cbc-essiv:sha256`. */
  readonly cipherMode: string
  readonly hashSpec: string
  readonly payloadOffset: number
  readonly keyBytes: number
  /** 20 bytes: what tells a right key from a wrong one. */
  readonly digest: Uint8Array
  readonly digestSalt: Uint8Array
  readonly digestIterations: number
  readonly uuid: string
  readonly slots: LuksSlot[]
}

function invalid(message: string) {
  return blockError('EINVAL', message)
}

/** A NUL-terminated string of at most `length` bytes; undefined without the NUL. */
function text(bytes: Uint8Array, at: number, length: number): string | undefined {
  const end = bytes.indexOf(0, at)
  return end < 0 || end >= at + length ? undefined : new TextDecoder().decode(bytes.subarray(at, end))
}

function terminated(bytes: Uint8Array, at: number, what: string): string {
  const found = text(bytes, at, 32)
  if (found === undefined) {
    throw invalid(`LUKS header ${what} is not NUL terminated`)
  }
  return found
}

/** Bytes the material of a key takes, rounded up as slots are laid out. */
export function keyMaterialBytes(keyBytes: number, stripes: number = luksStripes): number {
  return Math.ceil((keyBytes * stripes) / luksAlignment) * luksAlignment
}

/**
 * Parses and checks a header. Pure.
 *
 * @param bytes the first 592 bytes
 * @throws BlockError with QEMU's text, checks in QEMU's order
 */
export function parseLuksHeader(bytes: Uint8Array): LuksHeader {
  if (luksMagic.some((byte, i) => bytes[i] !== byte)) {
    throw invalid('Volume is not in LUKS format')
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, luksHeaderBytes)
  const version = view.getUint16(6)
  if (version !== luksVersion) {
    throw blockError('ENOTSUP', `LUKS version ${version} is not supported`)
  }
  const cipherName = terminated(bytes, 8, 'cipher name')
  const cipherMode = terminated(bytes, 40, 'cipher mode')
  const hashSpec = terminated(bytes, 72, 'hash spec')
  const payloadOffset = view.getUint32(104) * luksSectorBytes
  if (payloadOffset < luksAlignment) {
    throw invalid('LUKS payload is overlapping with the header')
  }
  const digestIterations = view.getUint32(164)
  if (digestIterations === 0) {
    throw invalid('LUKS key iteration count is zero')
  }
  const keyBytes = view.getUint32(108)
  return {
    cipherName,
    cipherMode,
    hashSpec,
    payloadOffset,
    keyBytes,
    digest: bytes.slice(112, 112 + digestBytes),
    digestSalt: bytes.slice(132, 132 + saltBytes),
    digestIterations,
    uuid: text(bytes, 168, 40) ?? new TextDecoder().decode(bytes.subarray(168, 208)),
    slots: parseSlots(bytes, view, keyBytes, payloadOffset),
  }
}

function parseSlots(bytes: Uint8Array, view: DataView, keyBytes: number, payloadOffset: number): LuksSlot[] {
  const slots = Array.from({ length: luksSlots }, (_, i) => {
    const at = firstSlotAt + i * slotBytes
    return {
      state: view.getUint32(at),
      iterations: view.getUint32(at + 4),
      salt: bytes.slice(at + 8, at + 8 + saltBytes),
      keyOffset: view.getUint32(at + 40) * luksSectorBytes,
      stripes: view.getUint32(at + 44),
    }
  })
  slots.forEach((slot, i) => {
    const { state, iterations, keyOffset, stripes } = slot
    if (stripes !== luksStripes) {
      throw invalid(`Keyslot ${i} is corrupted (stripes ${stripes | 0} != ${luksStripes})`)
    }
    if (keyOffset < luksAlignment) {
      throw invalid(`Keyslot ${i} is overlapping with the LUKS header`)
    }
    if (state !== slotEnabled && state !== slotDisabled) {
      throw invalid(`Keyslot ${i} state (active/disable) is corrupted`)
    }
    if (state === slotEnabled && iterations === 0) {
      throw invalid(`Keyslot ${i} iteration count is zero`)
    }
    const bytesEach = keyMaterialBytes(keyBytes)
    if (keyOffset + bytesEach > payloadOffset) {
      throw invalid(`Keyslot ${i} is overlapping with the encrypted payload`)
    }
    slots.slice(i + 1).forEach((other, index) => {
      if (keyOffset + bytesEach > other.keyOffset && other.keyOffset + bytesEach > keyOffset) {
        throw invalid(`Keyslots ${i} and ${i + 1 + index} are overlapping in the header`)
      }
    })
  })
  return slots.map(({ state, iterations, salt, keyOffset, stripes }) => ({
    active: state === slotEnabled,
    iterations,
    salt,
    keyOffset,
    stripes,
  }))
}

/** The header as it is stored: 592 bytes. Names must be shorter than 32 bytes. */
export function serializeLuksHeader(header: LuksHeader): Uint8Array {
  const bytes = new Uint8Array(luksHeaderBytes)
  const view = new DataView(bytes.buffer)
  const encoder = new TextEncoder()
  bytes.set(luksMagic)
  view.setUint16(6, luksVersion)
  bytes.set(encoder.encode(header.cipherName), 8)
  bytes.set(encoder.encode(header.cipherMode), 40)
  bytes.set(encoder.encode(header.hashSpec), 72)
  view.setUint32(104, header.payloadOffset / luksSectorBytes)
  view.setUint32(108, header.keyBytes)
  bytes.set(header.digest, 112)
  bytes.set(header.digestSalt, 132)
  view.setUint32(164, header.digestIterations)
  bytes.set(encoder.encode(header.uuid).subarray(0, 40), 168)
  header.slots.forEach((slot, i) => {
    const at = firstSlotAt + i * slotBytes
    view.setUint32(at, slot.active ? slotEnabled : slotDisabled)
    view.setUint32(at + 4, slot.iterations)
    bytes.set(slot.salt, at + 8)
    view.setUint32(at + 40, slot.keyOffset / luksSectorBytes)
    view.setUint32(at + 44, slot.stripes)
  })
  return bytes
}
