/** Character devices: streams of bytes that monitors talk over. */
export * from './device.js'
export * from './options.js'
export * from './registry.js'
export { RingBufferChar, type StdioStreams } from './simple.js'
