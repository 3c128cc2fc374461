import { luksAmendSchema } from '../../../formatkit/luks/options.js'
import { defineOptions } from '../../../options/index.js'

export const luksRuntimeOptions = defineOptions({
  'key-secret': { type: 'string', help: 'ID of the secret that provides the keyslot passphrase' },
})

/** Options of create, in the order in which QEMU prints them. */
export const luksCreateSchema = defineOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  'key-secret': { type: 'string', help: 'ID of the secret that provides the keyslot passphrase' },
  'cipher-alg': { type: 'string', help: 'Name of encryption cipher algorithm' },
  'cipher-mode': { type: 'string', help: 'Name of encryption cipher mode' },
  'ivgen-alg': { type: 'string', help: 'Name of IV generator algorithm' },
  'ivgen-hash-alg': { type: 'string', help: 'Name of IV generator hash algorithm' },
  'hash-alg': { type: 'string', help: 'Name of encryption hash algorithm' },
  'iter-time': { type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
})

export const luksAmendOptionSchema = defineOptions(luksAmendSchema)
