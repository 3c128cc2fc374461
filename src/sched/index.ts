/** Waiting: the `Wait` type, locks and time slices. Imports nothing. */
export * from './clock.js'
export * from './mutex.js'
export * from './range-lock.js'
export * from './time-slice.js'
export * from './wait.js'
