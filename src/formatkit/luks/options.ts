import { blockError } from '../../errors/index.js'
import type { HashName } from '../../host/index.js'
import type { OptionSpec } from '../../options/index.js'
import {
  type CipherAlgorithm,
  type CipherMode,
  cipherAlgorithms,
  cipherModes,
  type IvGeneratorName,
  isHashName,
  ivGenerators,
} from '../crypto/index.js'

/** Typed options as drivers get them. */
export type LuksValues = Readonly<Record<string, string | number | boolean>>

/** What to create. */
export interface LuksCreateOptions {
  readonly cipher: CipherAlgorithm
  readonly mode: CipherMode
  readonly ivgen: IvGeneratorName
  readonly ivHash: HashName | undefined
  readonly hash: HashName
  /** Milliseconds. */
  readonly iterTime: number
}

const defaultIterTime = 2000

function rejected(name: string, value: unknown) {
  return blockError('EINVAL', `Parameter '${name}' does not accept value '${String(value)}'`)
}

/** The word of an option, which must be one of a list; undefined if not given. */
function word<T extends string>(
  values: LuksValues,
  prefix: string,
  name: string,
  words: readonly T[],
): T | undefined {
  const value = values[prefix + name]
  if (value === undefined) {
    return undefined
  }
  const found = words.find((one) => one === value)
  if (found === undefined) {
    throw rejected(name, value)
  }
  return found
}

function hash(values: LuksValues, prefix: string, name: string): HashName | undefined {
  const value = values[prefix + name]
  if (value === undefined) {
    return undefined
  }
  if (typeof value !== 'string' || !isHashName(value)) {
    throw rejected(name, value)
  }
  return value
}

/**
 * Reads the options of a create.
 *
 * @param prefix what stands before their names: nothing, or `encrypt.` in qcow2
 * @throws EINVAL `Parameter '%s' does not accept value '%s'`
 */
export function luksCreateOptions(values: LuksValues, prefix: string): LuksCreateOptions {
  const cipherName = word(
    values,
    prefix,
    'cipher-alg',
    cipherAlgorithms.map(({ name }) => name),
  )
  const cipher = cipherAlgorithms.find(({ name }) => name === (cipherName ?? 'aes-256'))
  if (cipher === undefined) {
    throw rejected('cipher-alg', cipherName)
  }
  const mode = word(values, prefix, 'cipher-mode', cipherModes) ?? 'xts'
  const ivgen = word(values, prefix, 'ivgen-alg', ivGenerators) ?? 'plain64'
  const ivHash = hash(values, prefix, 'ivgen-hash-alg')
  return {
    cipher,
    mode,
    ivgen,
    ivHash: ivHash ?? (ivgen === 'essiv' ? 'sha256' : undefined),
    hash: hash(values, prefix, 'hash-alg') ?? 'sha256',
    iterTime: Number(values[`${prefix}iter-time`] ?? defaultIterTime),
  }
}

/** Options of amend, by their plain names. */
export const luksAmendSchema = {
  state: { type: 'string', help: 'Select new state of affected keyslots (active/inactive)' },
  keyslot: { type: 'number', help: 'Select a single keyslot to modify explicitly' },
  'old-secret': { type: 'string', help: 'Select all keyslots that match this password' },
  'new-secret': {
    type: 'string',
    help: 'New secret to set in the matching keyslots. Empty string to erase',
  },
  'iter-time': { type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
} as const satisfies Record<string, OptionSpec>

/** What an amend asks for. */
export interface LuksAmendOptions {
  readonly state: 'active' | 'inactive'
  readonly keySlot: number | undefined
  /** Ids of secrets. */
  readonly oldSecret: string | undefined
  readonly newSecret: string | undefined
  /** Milliseconds. */
  readonly iterTime: number | undefined
}

/** @throws EINVAL with QEMU's texts */
export function luksAmendOptions(values: LuksValues, prefix: string): LuksAmendOptions {
  const state = word(values, prefix, 'state', ['active', 'inactive'] as const)
  if (state === undefined) {
    throw blockError('EINVAL', "Parameter 'state' is missing")
  }
  const text = (name: string) => {
    const value = values[prefix + name]
    return value === undefined ? undefined : String(value)
  }
  const number = (name: string) => {
    const value = values[prefix + name]
    return value === undefined ? undefined : Number(value)
  }
  return {
    state,
    keySlot: number('keyslot'),
    oldSecret: text('old-secret'),
    newSecret: text('new-secret'),
    iterTime: number('iter-time'),
  }
}

export { defaultIterTime }
