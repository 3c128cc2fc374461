/** The heavy half of the qed driver. */
export { create } from './create.js'
export { open } from './open.js'
