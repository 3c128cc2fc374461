/** Ciphers for disk sectors and the objects that hold passwords. */
export * from './encrypt-options.js'
export * from './encrypted-path.js'
export * from './iv-generator.js'
export * from './legacy-aes.js'
export * from './make-cipher.js'
export * from './names.js'
export * from './secret.js'
export * from './sector-cipher.js'
