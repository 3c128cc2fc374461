/** FUSE as the kernel speaks it: requests and replies as bytes. May import nothing but what is below `host`. */
export * from './wire.js'
