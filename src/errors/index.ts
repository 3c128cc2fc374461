/** Errors: errno names with glibc's wording, and the one error class. Imports nothing. */
export * from './block-error.js'
export * from './errno.js'
