import type { Host } from '../../host/index.js'
import type { OptionTree } from '../../options/index.js'
import { makeSectorCipher, type SectorCipher } from '../crypto/index.js'
import { type LuksHeader, luksHeaderBytes, parseLuksHeader } from './header.js'
import { type LuksStorage, unlockAny } from './key-slots.js'
import { type LuksSpec, luksSpec } from './spec.js'

/** A LUKS header that was read, and the cipher for its payload if it could be unlocked. */
export class LuksVolume {
  readonly header: LuksHeader
  readonly spec: LuksSpec
  /** Undefined: opened without I/O, so nothing was unlocked. */
  readonly cipher: SectorCipher | undefined

  constructor(header: LuksHeader, spec: LuksSpec, cipher: SectorCipher | undefined) {
    this.header = header
    this.spec = spec
    this.cipher = cipher
  }

  /** QAPI `QCryptoBlockInfoLUKS`. */
  info(): OptionTree {
    const { header, spec } = this
    return {
      'ivgen-alg': spec.ivgen,
      ...(spec.ivgen === 'essiv' ? { 'ivgen-hash-alg': spec.ivHash } : {}),
      'hash-alg': spec.hash,
      'cipher-alg': spec.cipher.name,
      uuid: header.uuid,
      'cipher-mode': spec.mode,
      slots: header.slots.map(({ active, iterations, keyOffset, stripes }) =>
        active
          ? { active, iters: iterations, 'key-offset': keyOffset, stripes }
          : { active, 'key-offset': keyOffset },
      ),
      'payload-offset': header.payloadOffset,
      'master-key-iters': header.digestIterations,
    }
  }

  dispose(): void {
    this.cipher?.dispose()
  }
}

/**
 * Reads a header and unlocks it.
 *
 * @param password undefined: only describe the volume. The caller wipes it.
 * @throws BlockError with QEMU's text
 */
export async function openLuks(
  host: Host,
  storage: LuksStorage,
  password: Uint8Array | undefined,
): Promise<LuksVolume> {
  const header = parseLuksHeader(await storage.read(0, luksHeaderBytes))
  const spec = luksSpec(header)
  if (password === undefined) {
    return new LuksVolume(header, spec, undefined)
  }
  const key = await unlockAny(host, storage, header, spec, password)
  try {
    return new LuksVolume(header, spec, makeSectorCipher(host.ciphers, spec, key))
  } finally {
    key.fill(0)
  }
}
