/** What image formats have in common. May import errors, bytes, sched, host, options, io and graph. */
export * from './alone.js'
export * from './decoded-chunks.js'
export * from './index-ranges.js'
export * from './loaded-table.js'
export * from './read-padded.js'
export * from './sector-bits.js'
export * from './table-cache.js'
export * from './windows-paths.js'
