/** What other programs can use of the block graph: exports of nodes, and the servers for them. */
export * from './nbd-export.js'
export * from './nbd-server.js'
