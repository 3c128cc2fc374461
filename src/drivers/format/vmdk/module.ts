/** The heavy half of the vmdk driver. */
export { create } from './create.js'
export { open } from './open.js'
export { stream } from './stream.js'
