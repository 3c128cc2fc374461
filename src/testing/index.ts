/** The public test kit: a platform in memory with faults and delays. May import layers 0 to 4. */
export * from './crash-files.js'
export { CrashLog, type CrashState, type CrashStateOptions } from './crash-log.js'
export { FakeClock } from './fake-clock.js'
export * from './memory-host.js'
export { MemorySocket } from './memory-socket.js'
