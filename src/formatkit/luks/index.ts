/** LUKS version 1: header, key slots, payload cipher. Works on any storage that holds the header. */
export * from './amend.js'
export * from './create.js'
export { luksAlignment, luksHeaderBytes, luksMagic, luksSectorBytes, luksVersion } from './header.js'
export type { LuksStorage } from './key-slots.js'
export * from './node-storage.js'
export {
  type LuksCreateOptions,
  type LuksValues,
  luksAmendOptions,
  luksAmendSchema,
  luksCreateOptions,
} from './options.js'
export * from './volume.js'
