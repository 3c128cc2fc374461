/** The Node.js platform. The only folder that may import `node:*` and native code; implements host/. */
export type { IoPolicy } from './file.js'
export { createNodeHost, type NodeHostOptions } from './host.js'
