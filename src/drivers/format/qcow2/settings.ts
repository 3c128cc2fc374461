import { blockError } from '../../../errors/index.js'
import { checkEncryptFormat } from '../../../formatkit/crypto/index.js'
import { type OptionDict, type OptionsOf, takeOptions } from '../../../options/index.js'
import type { DiscardPolicy } from './allocate.js'
import { type CacheSizes, cacheSizes } from './cache-sizes.js'
import { Compatible, CryptMethod, extendedEntryBytes, Incompatible, tableEntryBytes } from './constants.js'
import { type EncryptOptions, encryptFormatOf } from './crypto.js'
import type { Qcow2Header } from './header.js'
import { qcow2RuntimeOptions } from './options.js'
import { overlapTemplates, protectedStructures } from './overlap.js'

type RuntimeOptions = OptionsOf<typeof qcow2RuntimeOptions>

/** What the options of an open or a reopen come to. */
export interface RuntimeSettings {
  /** Sizes of the caches for the image's present size. */
  caches(): CacheSizes
  readonly discards: DiscardPolicy
  /** Refcounts may lag behind while the image is marked dirty. */
  readonly lazyRefcounts: boolean
  readonly discardNoUnref: boolean
  /** Seconds; 0: never. */
  readonly cacheCleanInterval: number
  readonly protectedStructures: ReturnType<typeof protectedStructures>
  readonly encrypt: EncryptOptions
}

/**
 * Takes the driver's options out of `dict`.
 *
 * @throws BlockError EINVAL with QEMU's text
 */
export function runtimeSettings(
  dict: OptionDict,
  header: Qcow2Header,
  unmapAllowed: boolean,
): RuntimeSettings {
  const options = takeOptions(dict, qcow2RuntimeOptions)
  checkOptions(options, header)
  checkEncryptFormat(options['encrypt.format'], encryptFormatOf(header))
  if (header.cryptMethod !== CryptMethod.none) {
    for (const key of dict.keys()) {
      if (key.startsWith('encrypt.')) {
        throw blockError('EINVAL', `Parameter '${key.slice('encrypt.'.length)}' is unexpected`)
      }
    }
  }
  const entryBytes =
    (header.incompatible & Incompatible.extendedL2) !== 0 ? extendedEntryBytes : tableEntryBytes
  const caches = () => cacheSizes(options, header.size, header.clusterSize, entryBytes)
  caches()
  return {
    caches,
    discards: discardPolicy(options, unmapAllowed),
    lazyRefcounts: options['lazy-refcounts'] ?? (header.compatible & Compatible.lazyRefcounts) !== 0,
    cacheCleanInterval: options['cache-clean-interval'] ?? defaultCacheCleanInterval,
    discardNoUnref: options['discard-no-unref'] === true,
    protectedStructures: protectedStructures(options),
    encrypt: { format: options['encrypt.format'], keySecret: options['encrypt.key-secret'] },
  }
}

/** Seconds. */
const defaultCacheCleanInterval = 600

function checkOptions(options: RuntimeOptions, header: Qcow2Header): void {
  if ((options['cache-clean-interval'] ?? 0) > 0xffffffff) {
    throw blockError('EINVAL', 'Cache clean interval too big')
  }
  if (options['lazy-refcounts'] === true && header.version < 3) {
    throw blockError(
      'EINVAL',
      'Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level',
    )
  }
  if (options['discard-no-unref'] === true && header.version < 3) {
    throw blockError('EINVAL', 'discard-no-unref is only supported since qcow2 version 3')
  }
  const overlap = options['overlap-check']
  const template = options['overlap-check.template']
  if (overlap !== undefined && template !== undefined && overlap !== template) {
    throw blockError(
      'EINVAL',
      `Conflicting values for qcow2 options 'overlap-check' ('${overlap}') and ` +
        `'overlap-check.template' ('${template}')`,
    )
  }
  const chosen = overlap ?? template ?? 'cached'
  if (!Object.hasOwn(overlapTemplates, chosen)) {
    throw blockError(
      'EINVAL',
      `Unsupported value '${chosen}' for qcow2 option 'overlap-check'. ` +
        'Allowed are any of the following: none, constant, cached, all',
    )
  }
}

function discardPolicy(options: RuntimeOptions, unmapAllowed: boolean): DiscardPolicy {
  return {
    never: false,
    always: true,
    request: options['pass-discard-request'] ?? unmapAllowed,
    snapshot: options['pass-discard-snapshot'] ?? true,
    other: options['pass-discard-other'] ?? false,
  }
}
