/** Who may use a server, as objects of a layer (`authz-simple`, `authz-list`, `authz-list-file`). */
export * from './authorization.js'
