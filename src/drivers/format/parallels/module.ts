/** The heavy half of the parallels driver. */
export { create } from './create.js'
export { open } from './open.js'
