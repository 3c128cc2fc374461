import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { seeded } from '../jobs/machine.js'

type Random = ReturnType<typeof seeded>

const KiB = 1024
const MiB = 1024 * KiB

/** What lies where on the disk, in bytes. */
export const layout = {
  size: 64 * MiB,
  /** An ext4 with one large file, whose blocks fio writes. */
  large: { offset: 0, size: 48 * MiB },
  /** An ext4 that is made anew again and again. */
  small: { offset: 48 * MiB, size: 4 * MiB },
  /** Patterns by qemu-io. */
  patterns: { offset: 52 * MiB, size: 12 * MiB },
} as const

/** From here to the end the model knows every byte. */
export const modelled = layout.small.offset

/** Runs a program, waiting without blocking; throws with what it said if its exit code is not a good one. */
export async function program(
  name: string,
  args: readonly string[],
  good: readonly (number | null)[] = [0],
): Promise<string> {
  const child = spawn(name, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  child.stdout.on('data', (text: Buffer) => {
    output += text.toString()
  })
  child.stderr.on('data', (text: Buffer) => {
    output += text.toString()
  })
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  if (!good.includes(code)) {
    throw new Error(`${name} ${args.join(' ')} ended with ${code}: ${output}`)
  }
  return output
}

/** An ext4 that fills a file of its own with `bytes` of noise in one extent; returns where that begins. */
export function makeLargeFilesystem(path: string, bytes: number): number {
  const source = `${path}.d`
  execFileSync('mkdir', [source])
  execFileSync('dd', ['if=/dev/urandom', `of=${source}/file`, 'bs=1M', `count=${bytes / MiB}`, 'status=none'])
  writeFileSync(path, '')
  truncateSync(path, layout.large.size)
  execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', '-b', '4096', '-d', source, path], { stdio: 'pipe' })
  rmSync(source, { recursive: true })
  const extents = execFileSync('debugfs', ['-R', 'dump_extents /file', path], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const first = /^ 0\/ 0\s+1\/ {2}1\s+0 - +\d+ +(\d+) - +\d+ +(\d+)/m.exec(extents)
  if (first === null || Number(first[2]) * 4096 < bytes) {
    throw new Error(`the file is in pieces: ${extents}`)
  }
  return Number(first[1]) * 4096
}

/** One write that changed, or is about to change, the modelled part: `fill` is a byte or what is written. */
interface Change {
  readonly offset: number
  readonly length: number
  readonly fill: number | Uint8Array
}

/**
 * A guest of one request at a time: a qemu-io that stays connected. It counts what it has begun and finished, so
 * that a moment is known to lie between two numbers, and keeps what it wrote.
 */
export class PatternWriter {
  begun = 0
  finished = 0
  readonly #child: ChildProcessWithoutNullStreams
  readonly #random: Random
  readonly #dir: string
  readonly #changes: Change[] = []
  /** Contents of the modelled part before the first of `#changes`. */
  readonly #base: Uint8Array
  #baseCount = 0
  #stopping = false
  #loop: Promise<void> = Promise.resolve()
  #output = ''
  #prompted: (() => void) | undefined
  #ended: Error | undefined

  constructor(uri: string, dir: string, contents: Uint8Array, random: Random) {
    this.#dir = dir
    this.#random = random
    this.#base = contents.slice(modelled)
    this.#child = spawn('qemu-io', ['-f', 'raw', uri], { cwd: dir })
    this.#child.stdout.on('data', (text: Buffer) => {
      this.#output += text.toString()
      if (this.#output.endsWith('qemu-io> ')) {
        this.#prompted?.()
      }
    })
    this.#child.stderr.on('data', (text: Buffer) => {
      this.#ended = new Error(`qemu-io: ${text.toString()}`)
      this.#prompted?.()
    })
    this.#child.once('exit', () => {
      this.#ended ??= new Error('qemu-io has ended')
      this.#prompted?.()
    })
  }

  start(): void {
    this.#stopping = false
    this.#loop = this.#run()
    // Who stops it hears of it.
    this.#loop.catch(() => undefined)
  }

  /** Resolves when the last request has been answered. */
  async stop(): Promise<void> {
    this.#stopping = true
    await this.#loop
  }

  async close(): Promise<void> {
    await this.stop()
    const gone = new Promise((resolve) => this.#child.once('exit', resolve))
    await this.#command('flush')
    this.#child.stdin.end('quit\n')
    await gone
  }

  async #run(): Promise<void> {
    while (!this.#stopping) {
      await this.#one()
      await new Promise((resolve) => setTimeout(resolve, 5 + this.#random(40)))
    }
  }

  async #one(): Promise<void> {
    const random = this.#random
    const kind = random(40)
    let change: Change
    let command: string
    if (kind === 0) {
      const path = join(this.#dir, 'small.img')
      writeFileSync(path, '')
      truncateSync(path, layout.small.size)
      await program('mke2fs', ['-q', '-F', '-t', 'ext4', '-b', '1024', path])
      change = { offset: layout.small.offset, length: layout.small.size, fill: readFileSync(path) }
      command = `write -s ${path} ${change.offset} ${change.length}`
    } else {
      const length = 512 * (1 + random([8, 128, 600][random(3)] ?? 8))
      const offset = layout.patterns.offset + 512 * random((layout.patterns.size - length) / 512)
      const fill = kind < 6 ? 0 : 1 + random(255)
      change = { offset, length, fill }
      command = `write ${fill === 0 ? (kind < 3 ? '-z' : '-zu') : `-P ${fill}`} ${offset} ${length}`
    }
    this.#changes.push(change)
    this.begun++
    if (random(8) === 0) {
      await this.#command('flush')
    }
    const answer = await this.#command(command)
    if (!answer.includes(`wrote ${change.length}/${change.length} bytes`)) {
      throw new Error(`${command}: ${answer}`)
    }
    this.finished++
  }

  /** One line at a time: qemu-io does not notice a second one that has come with the first. */
  async #command(line: string): Promise<string> {
    await this.#prompt()
    this.#output = ''
    this.#child.stdin.write(`${line}\n`)
    await this.#prompt()
    return this.#output
  }

  async #prompt(): Promise<void> {
    if (!this.#output.endsWith('qemu-io> ')) {
      await new Promise<void>((resolve) => {
        this.#prompted = resolve
      })
    }
    if (this.#ended !== undefined) {
      throw this.#ended
    }
  }

  /**
   * Whether the modelled part of `contents` (a whole disk) is what it was at a moment at which at least `from` and
   * at most `to` writes had been done. Forgets what was before `from`, so moments must be asked for in their order.
   */
  matches(contents: Uint8Array, from: number, to: number): boolean {
    while (this.#baseCount < from) {
      this.#apply(this.#base, this.#changes.shift())
      this.#baseCount++
    }
    const state = this.#base.slice()
    const found = contents.subarray(modelled)
    for (let at = from; ; at++) {
      if (Buffer.compare(found, state) === 0) {
        return true
      }
      if (at >= to) {
        return false
      }
      this.#apply(state, this.#changes[at - from])
    }
  }

  /** What is wrong with the modelled part of `contents`, which {@link matches} has found not to be as it was after `to` writes. */
  explain(contents: Uint8Array, to: number): string {
    const state = this.#base.slice()
    const done = this.#changes.slice(0, to - this.#baseCount)
    for (const change of done) {
      this.#apply(state, change)
    }
    const found = contents.subarray(modelled)
    const first = state.findIndex((byte, at) => byte !== found[at])
    let end = first
    while (end < state.length && state[end] !== found[end]) {
      end++
    }
    const range = `after ${to} writes the disk differs first in [${modelled + first}, ${modelled + end})`
    const by = done.findLastIndex(
      ({ offset, length }) => offset <= modelled + first && modelled + first < offset + length,
    )
    const change = done[by]
    return change === undefined
      ? `${range}, which none of the last ${done.length} wrote`
      : `${range}, last written by number ${this.#baseCount + by + 1}: ${change.length} bytes at ${change.offset}`
  }

  #apply(state: Uint8Array, change: Change | undefined): void {
    if (change === undefined) {
      throw new Error('a change that is not known')
    }
    const at = change.offset - modelled
    if (typeof change.fill === 'number') {
      state.fill(change.fill, at, at + change.length)
    } else {
      state.set(change.fill, at)
    }
  }
}

/**
 * fio, one short run after the other: random writes of a part of the disk, each read back and verified. One half of
 * the part is written in small blocks, the other in large ones, so that a block is always one request's.
 */
export class FioClient {
  runs = 0
  readonly #uri: string
  readonly #parts: readonly { readonly offset: number; readonly size: number; readonly block: number }[]
  readonly #first: Uint8Array
  readonly #random: Random
  #stopping = false
  #loop: Promise<void> = Promise.resolve()

  /** `contents` is the disk before the first write. */
  constructor(uri: string, offset: number, size: number, contents: Uint8Array, random: Random) {
    this.#uri = uri
    this.#random = random
    this.#first = contents
    this.#parts = [
      { offset, size: size / 2, block: 4096 },
      { offset: offset + size / 2, size: size / 2, block: 65536 },
    ]
  }

  start(): void {
    this.#stopping = false
    this.#loop = this.#run()
    this.#loop.catch(() => undefined)
  }

  async stop(): Promise<void> {
    this.#stopping = true
    await this.#loop
  }

  async #run(): Promise<void> {
    while (!this.#stopping) {
      const part = this.#parts[this.#random(2)]
      if (part === undefined) {
        throw new Error('no part')
      }
      await program('fio', [
        ...['--name=job', '--ioengine=nbd', `--uri=${this.#uri}`, '--output-format=terse', '--randrepeat=0'],
        ...[
          '--verify=md5',
          '--verify_fatal=1',
          '--verify_state_save=0',
          `--offset=${part.offset}`,
          `--size=${part.size}`,
        ],
        ...['--rw=randwrite', `--bs=${part.block}`, `--iodepth=${1 + this.#random(16)}`, '--io_size=6m'],
        // Reading back is fast, writing takes a second or two.
        '--rate=64m,4m',
        ...(this.#random(2) === 0 ? ['--verify_backlog=64'] : []),
      ])
      this.runs++
    }
  }

  /** Offset of a block in `contents` (a whole disk) that is neither as it was at first nor what fio wrote there. */
  torn(contents: Uint8Array): number | undefined {
    for (const { offset, size, block } of this.#parts) {
      for (let at = offset; at < offset + size; at += block) {
        const found = contents.subarray(at, at + block)
        if (!isWritten(found, at) && Buffer.compare(found, this.#first.subarray(at, at + block)) !== 0) {
          return at
        }
      }
    }
    return undefined
  }
}

const fioHeader = { bytes: 40, magic: 0xacca } as const

/** Whether fio wrote a block as it is, at this place: its header's length, offset and MD5 are right. */
function isWritten(block: Uint8Array, offset: number): boolean {
  const view = new DataView(block.buffer, block.byteOffset, block.length)
  const sum = block.subarray(fioHeader.bytes, fioHeader.bytes + 16)
  return (
    view.getUint16(0, true) === fioHeader.magic &&
    view.getUint32(4, true) === block.length &&
    view.getBigUint64(16, true) === BigInt(offset) &&
    createHash('md5')
      .update(block.subarray(fioHeader.bytes + 16))
      .digest()
      .equals(sum)
  )
}
