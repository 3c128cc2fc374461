/** The heavy half of the vdi driver. */
export { create } from './create.js'
export { open } from './open.js'
