/** What other programs can use of the block graph: exports of nodes, and the servers for them. */
export { FuseExport, type FuseExportOptions } from './fuse-export.js'
export * from './nbd-export.js'
export * from './nbd-server.js'
