/** Options as data: dictionaries, schemas, typing, parsing and printing. May import errors and bytes. */
export * from './dict.js'
export * from './json-names.js'
export { type JsonObject, type JsonValue, parseJson } from './json-parse.js'
export * from './schema.js'
export * from './size.js'
export * from './take.js'
