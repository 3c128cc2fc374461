/** Ciphers for disk sectors and the objects that hold passwords. */
export * from './iv-generator.js'
export * from './make-cipher.js'
export * from './names.js'
export * from './secret.js'
export * from './sector-cipher.js'
