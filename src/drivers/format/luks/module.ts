/** The heavy half of the luks driver. */
export { create } from './create.js'
export { measure } from './measure.js'
export { open } from './open.js'
