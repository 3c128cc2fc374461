/** The heavy half of the qcow driver. */
export { create } from './create.js'
export { open } from './open.js'
