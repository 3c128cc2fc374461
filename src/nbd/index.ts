/** The NBD protocol: its numbers, and both sides of handshake and transmission. No sockets of its own. */
export { ClientConnection } from './client-connection.js'
export * from './client-handshake.js'
export { IoBufferPool } from './io-buffers.js'
export * from './protocol.js'
export * from './served-export.js'
export { ServerHandshake, type ServerNegotiation } from './server-handshake.js'
export { ServerTransmission } from './server-transmission.js'
