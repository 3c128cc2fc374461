import { run } from './img/run.js'
import { runProcess } from './main-process.js'

/** `blockgraph-img`, and `qemu-img` by another name. */
await runProcess(run)
