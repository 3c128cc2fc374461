// Timing of programs side by side.
import { execFileSync, spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('..', import.meta.url))
export const ours = `${root}bin/blockgraph-img`
const peakHook = `${root}bench/peak-memory.cjs`

export function qemu(...args) {
  return execFileSync('qemu-img', args, { encoding: 'utf8', maxBuffer: 1 << 28 })
}

export function command(program, args, options = {}) {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8', ...options })
  if (status !== 0) {
    throw new Error(`${program} ${args.join(' ')}: exit ${status} ${stderr}`)
  }
  return { stdout, stderr }
}

function wallClock(run) {
  const start = process.hrtime.bigint()
  run()
  return Number(process.hrtime.bigint() - start) / 1e9
}

/** Whole processes, start-up included; `prepare` comes before each one and is not timed. */
export function commandPair(args, prepare = () => {}, prefix = []) {
  const timed = (program) => () => {
    prepare()
    const [first, ...rest] = [...prefix, program, ...args]
    return wallClock(() => command(first, rest))
  }
  return { ours: timed(ours), theirs: timed('qemu-img') }
}

/** `bench` of both programs, which measure themselves: start-up excluded. */
export function benchPair(args, { prepare = () => {}, theirs = [] } = {}) {
  const timed = (program, more) => () => {
    prepare()
    const { stdout } = command(program, ['bench', ...more, ...args])
    return Number(/completed in ([\d.]+)/.exec(stdout)[1])
  }
  return { ours: timed(ours, []), theirs: timed('qemu-img', theirs) }
}

/** Peak memory in MiB and seconds of one of our commands. */
export function footprint(args) {
  let output
  const seconds = wallClock(() => {
    output = command(process.execPath, ['-r', peakHook, ours, ...args])
  })
  return { seconds, peak: Number(/peak (\d+) KiB/.exec(output.stderr)[1]) / 1024 }
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** Runs both in alternation after one run each to warm up. Ratios are QEMU's time by ours. */
export function alternate(pair, pairs) {
  pair.ours()
  pair.theirs()
  const a = []
  const b = []
  for (let i = 0; i < pairs; i++) {
    // Whoever goes second finds other caches than the first.
    if (i % 2 === 0) {
      a.push(pair.ours())
      b.push(pair.theirs())
    } else {
      b.push(pair.theirs())
      a.push(pair.ours())
    }
  }
  const ratios = a.map((value, i) => b[i] / value)
  return {
    ours: median(a),
    theirs: median(b),
    ratio: median(ratios),
    min: Math.min(...ratios),
    max: Math.max(...ratios),
    pairs,
  }
}
