/** Bytes and text: endian access, alignment, sizes and JSON as QEMU prints them. Imports nothing. */
export * from './align.js'
export * from './endian.js'
export * from './fixed-text.js'
export * from './hierarchical-bitmap.js'
export * from './json-text.js'
export * from './qdict-order.js'
export * from './size-text.js'
export * from './uuid.js'
