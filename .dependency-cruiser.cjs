// Imports point one way: to a lower layer or within the same folder (docs/architecture.md).
// No exceptions list; a rule that is in the way is a design question.
const layers = {
  errors: [],
  bytes: ['errors'],
  sched: ['errors'],
  host: ['errors', 'bytes', 'sched'],
  options: ['errors', 'bytes', 'sched'],
  io: ['errors', 'bytes', 'sched', 'host', 'options'],
  nbd: ['errors', 'bytes', 'sched', 'host'],
  fuse: ['errors', 'bytes', 'sched', 'host'],
  graph: ['errors', 'bytes', 'sched', 'host', 'options', 'io'],
  formatkit: ['errors', 'bytes', 'sched', 'host', 'options', 'io', 'graph'],
  hostfile: ['errors', 'bytes', 'sched', 'host', 'options', 'io', 'graph'],
  drivers: ['errors', 'bytes', 'sched', 'host', 'options', 'io', 'nbd', 'graph', 'formatkit', 'hostfile'],
  image: ['errors', 'bytes', 'sched', 'host', 'options', 'io', 'graph', 'formatkit'],
  exports: ['errors', 'bytes', 'sched', 'host', 'options', 'io', 'nbd', 'fuse', 'graph', 'formatkit'],
  jobs: ['errors', 'bytes', 'sched', 'host', 'options', 'io', 'graph', 'formatkit', 'image'],
  qmp: [
    ...['errors', 'bytes', 'sched', 'host', 'options', 'io', 'nbd', 'graph', 'formatkit', 'image'],
    ...['exports', 'jobs'],
  ],
  library: [
    ...['errors', 'bytes', 'sched', 'host', 'options', 'io', 'nbd', 'graph', 'formatkit', 'image'],
    ...['exports', 'jobs', 'qmp'],
  ],
  testing: ['errors', 'bytes', 'sched', 'host', 'options', 'io', 'graph', 'formatkit'],
  tools: [
    ...['errors', 'bytes', 'sched', 'host', 'options', 'io', 'nbd', 'graph', 'formatkit', 'image'],
    ...['exports', 'jobs', 'library', 'qmp'],
  ],
  platform: ['errors', 'bytes', 'sched', 'host'],
}

// Wiring: entry points choose drivers and platform, so they may import anything.
const wiring = '^src/([^/]+\\.ts|tools/main-[^/]+\\.ts)$'
const tests = '\\.test\\.ts$'

const layerRules = Object.entries(layers).map(([name, allowed]) => ({
  name: `layer-${name}`,
  severity: 'error',
  from: { path: `^src/${name}/`, pathNot: [wiring, tests] },
  to: { path: '^src/', pathNot: [`^src/(${[name, ...allowed].join('|')})/`] },
}))

module.exports = {
  forbidden: [
    ...layerRules,
    {
      name: 'no-value-cycles',
      severity: 'error',
      from: { pathNot: tests },
      to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
    },
    {
      name: 'platform-only-in-platform',
      comment: 'Node and native code stay behind host/, so that the rest also runs in a browser.',
      severity: 'error',
      from: { path: '^src/', pathNot: ['^src/platform/', wiring, tests] },
      to: {
        dependencyTypes: ['core', 'npm', 'npm-dev', 'npm-optional', 'npm-peer', 'unknown', 'undetermined'],
      },
    },
    {
      name: 'drivers-are-independent',
      severity: 'error',
      from: { path: '^src/drivers/([^/]+/[^/]+)/', pathNot: tests },
      to: { path: '^src/drivers/', pathNot: ['^src/drivers/$1/'] },
    },
    {
      name: 'no-vague-folders',
      severity: 'error',
      from: {},
      to: { path: '^src/.*/(util|utils|common|base|helpers|misc)/' },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'types'] },
  },
}
