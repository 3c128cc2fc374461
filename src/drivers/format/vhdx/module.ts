/** The heavy half of the vhdx driver. */
export { create } from './create.js'
export { open } from './open.js'
