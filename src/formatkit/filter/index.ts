/** What filter drivers share. */
export { PassThrough } from './pass-through.js'
