/** The heavy half of the vpc driver. */
export { create } from './create.js'
export { open } from './open.js'
