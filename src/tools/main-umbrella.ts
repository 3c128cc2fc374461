import { runProcess } from './main-process.js'
import { runUmbrella } from './umbrella.js'

/** `blockgraph`. */
await runProcess(runUmbrella)
