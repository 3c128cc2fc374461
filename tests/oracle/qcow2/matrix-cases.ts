import { chooser } from '../repair/corpus.js'
import { type Columns, pairwise } from './pairs.js'

/** What an image of the matrix is like. */
export interface Case {
  readonly compat: '0.10' | '1.1'
  /** Bytes. */
  readonly cluster: number
  readonly refcountBits: number
  readonly lazy: boolean
  readonly compression: 'none' | 'zlib' | 'zstd'
  readonly encryption: 'none' | 'luks'
  readonly snapshots: boolean
  readonly bitmaps: boolean
  readonly backing: 'none' | 'raw' | 'qcow2'
  readonly preallocation: 'off' | 'metadata' | 'falloc' | 'full'
  readonly extendedL2: boolean
  readonly dataFile: 'none' | 'plain' | 'raw'
}

const columns: Columns<Case> = {
  compat: ['1.1', '0.10'],
  cluster: [512, 4096, 65536, 2097152],
  refcountBits: [16, 1, 2, 4, 8, 32, 64],
  lazy: [false, true],
  compression: ['none', 'zlib', 'zstd'],
  encryption: ['none', 'luks'],
  snapshots: [false, true],
  bitmaps: [false, true],
  backing: ['none', 'raw', 'qcow2'],
  preallocation: ['off', 'metadata', 'falloc', 'full'],
  extendedL2: [false, true],
  dataFile: ['none', 'plain', 'raw'],
}

/** What QEMU accepts. */
function allowed(c: Case): boolean {
  if (
    c.compat === '0.10' &&
    (c.refcountBits !== 16 ||
      c.lazy ||
      c.compression === 'zstd' ||
      c.bitmaps ||
      c.extendedL2 ||
      c.dataFile !== 'none')
  ) {
    return false
  }
  return !(
    (c.snapshots && (c.refcountBits === 1 || c.dataFile !== 'none')) ||
    (c.compression !== 'none' && c.dataFile !== 'none') ||
    (c.compression !== 'none' && c.encryption !== 'none') ||
    // Compressed clusters go where nothing is.
    (c.compression !== 'none' && c.preallocation !== 'off') ||
    (c.backing !== 'none' && c.preallocation !== 'off' && !c.extendedL2) ||
    (c.backing !== 'none' && c.dataFile === 'raw') ||
    (c.extendedL2 && c.cluster < 16384)
  )
}

/** Cases in which all pairs of values stand together; another seed, other cases. */
export function matrixCases(seed: number): Case[] {
  return pairwise(columns, allowed, chooser(seed))
}

export function nameOf(c: Case): string {
  return Object.entries(c)
    .filter(([, value]) => value !== 'none' && value !== false && value !== 'off')
    .map(([key, value]) => (value === true ? key : `${key} ${value}`))
    .join(', ')
}

/** Bytes of the guest disk; not a whole number of larger clusters. */
export function sizeOf(c: Case): number {
  const clusters = c.cluster >= 2097152 ? 5 : c.cluster >= 65536 ? 48 : 256
  return clusters * c.cluster + (c.cluster > 512 ? 3 : 1) * 512
}

export function createOptionsOf(c: Case): string[] {
  const options = [
    `compat=${c.compat}`,
    `cluster_size=${c.cluster}`,
    `refcount_bits=${c.refcountBits}`,
    `lazy_refcounts=${c.lazy ? 'on' : 'off'}`,
    `preallocation=${c.preallocation}`,
  ]
  if (c.compression === 'zstd') {
    options.push('compression_type=zstd')
  }
  if (c.encryption === 'luks') {
    options.push('encrypt.format=luks', 'encrypt.key-secret=s', 'encrypt.iter-time=10')
  }
  if (c.extendedL2) {
    options.push('extended_l2=on')
  }
  if (c.dataFile !== 'none') {
    options.push('data_file=image.data', `data_file_raw=${c.dataFile === 'raw' ? 'on' : 'off'}`)
  }
  return options
}

/** One command line; `IMAGE` stands for the image with all it needs to be opened. */
export type Step = readonly [tool: 'img' | 'io', ...args: string[]]

/** What happens to an image after it was made, the same for both sides. */
export function scriptOf(c: Case, seed: number): Step[] {
  const below = chooser(seed)
  const size = sizeOf(c)
  const steps: Step[] = []
  const written = new Set<number>()
  const io = (count: number) => {
    const commands: string[] = []
    for (let i = 0; i < count; i++) {
      commands.push(randomCommand(c, size, below))
    }
    steps.push(['io', ...commands.flatMap((command) => ['-c', command]), 'IMAGE'])
  }
  if (c.compression !== 'none') {
    const commands: string[] = []
    for (let i = 0; i < 6; i++) {
      const cluster = below(Math.floor(size / c.cluster))
      if (!written.has(cluster)) {
        written.add(cluster)
        commands.push(`write -c -P ${1 + below(255)} ${cluster * c.cluster} ${c.cluster}`)
      }
    }
    steps.push(['io', ...commands.flatMap((command) => ['-c', command]), 'IMAGE'])
  }
  io(10)
  if (c.bitmaps) {
    steps.push(['img', 'bitmap', '--add', '-g', String(512 << below(8)), 'IMAGE', 'b0'])
  }
  if (c.snapshots) {
    steps.push(['img', 'snapshot', '-c', 'one', 'IMAGE'])
  }
  io(8)
  if (c.bitmaps) {
    steps.push(['img', 'bitmap', '--add', 'IMAGE', 'b1'], ['img', 'bitmap', '--disable', 'IMAGE', 'b0'])
  }
  if (c.snapshots) {
    steps.push(['img', 'snapshot', '-c', 'a second one', 'IMAGE'])
  }
  io(8)
  if (c.snapshots) {
    steps.push(['img', 'snapshot', below(2) === 0 ? '-d' : '-a', 'one', 'IMAGE'])
  }
  io(4)
  return steps
}

function randomCommand(c: Case, size: number, below: (limit: number) => number): string {
  const unit = [512, 512, 4096, c.cluster][below(4)] ?? 512
  const most = Math.max(1, Math.min(Math.floor(size / unit / 3), Math.ceil(200000 / unit)))
  const bytes = unit * (1 + below(most))
  const offset = unit * below(Math.floor((size - bytes) / unit) + 1)
  const kind = below(10)
  if (kind < 5) {
    return `write -P ${1 + below(255)} ${offset} ${bytes}`
  }
  if (kind < 8) {
    return `write -z ${kind === 5 ? '-u ' : ''}${offset} ${bytes}`
  }
  return `discard ${offset} ${bytes}`
}
