import { execFileSync, spawnSync } from 'node:child_process'
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { allDrivers } from '../../../src/all-drivers.js'
import { createBlockLayer } from '../../../src/graph/index.js'
import { createNodeHost } from '../../../src/platform/node/index.js'
import type { ToolContext } from '../../../src/tools/context.js'

/** What a command line did. */
export interface Outcome {
  readonly stdout: string
  readonly stderr: string
  readonly status: number
  /** Names in the folder afterwards. */
  readonly files: readonly string[]
}

/** Folders with the same images in them, made by the oracle. */
export class Fixture {
  readonly root = mkdtempSync(join(tmpdir(), 'blockgraph-text-'))
  readonly #template = join(this.root, 'template')

  constructor() {
    mkdirSync(this.#template)
    const qemu = (...args: string[]) =>
      execFileSync('qemu-img', args, {
        cwd: this.#template,
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'pipe'],
      })
    const io = (image: string, format: string, ...commands: string[]) =>
      execFileSync('qemu-io', ['-f', format, ...commands.flatMap((command) => ['-c', command]), image], {
        cwd: this.#template,
        stdio: 'pipe',
      })
    writeFileSync(join(this.#template, 'empty'), '')
    writeFileSync(join(this.#template, 'text'), 'no image at all\n')
    writeFileSync(join(this.#template, 'odd.raw'), Buffer.alloc(700, 1))
    qemu('create', '-f', 'raw', 'r.raw', '1M')
    io('r.raw', 'raw', 'write -P 1 64k 64k', 'write -P 2 512k 4k')
    qemu('create', '-f', 'raw', 'long.raw', '2M')
    io('long.raw', 'raw', 'write -P 1 64k 64k', 'write -P 2 512k 4k')
    qemu('create', '-f', 'raw', 'other.raw', '1M')
    io('other.raw', 'raw', 'write -P 1 64k 64k', 'write -P 3 768k 4k')
    qemu('create', '-f', 'qcow2', 'q.qcow2', '1M')
    io('q.qcow2', 'qcow2', 'write -P 1 64k 64k', 'write -P 2 512k 4k', 'write -z 256k 64k')
    qemu('create', '-f', 'qcow2', '-o', 'compat=0.10,cluster_size=4k', 'old.qcow2', '1M')
    qemu('create', '-f', 'qcow2', '-b', 'r.raw', '-F', 'raw', 'top.qcow2')
    io('top.qcow2', 'qcow2', 'write -P 5 0 64k')
    qemu('create', '-f', 'qcow2', '-b', 'top.qcow2', '-F', 'qcow2', 'chain.qcow2', '1536k')
    qemu('create', '-u', '-f', 'qcow2', '-b', 'gone.raw', '-F', 'raw', 'orphan.qcow2', '1M')
    qemu('create', '-u', '-f', 'qcow2', '-b', 'loop2.qcow2', '-F', 'qcow2', 'loop.qcow2', '1M')
    qemu('create', '-u', '-f', 'qcow2', '-b', 'loop.qcow2', '-F', 'qcow2', 'loop2.qcow2', '1M')
    qemu('convert', '-c', '-f', 'raw', '-O', 'qcow2', 'r.raw', 'packed.qcow2')
    qemu('create', '-f', 'qcow2', 'snap.qcow2', '1M')
    qemu('snapshot', '-c', 'first', 'snap.qcow2')
    qemu('snapshot', '-c', 'a longer snapshot name', 'snap.qcow2')
    qemu('create', '-f', 'qcow2', 'bits.qcow2', '1M')
    qemu('bitmap', '--add', 'bits.qcow2', 'b0')
    io('bits.qcow2', 'qcow2', 'write -P 1 64k 64k')
    qemu('bitmap', '--add', '-g', '4k', 'bits.qcow2', 'b1')
    io('bits.qcow2', 'qcow2', 'write -P 2 512k 4k')
    qemu('bitmap', '--add', '--disable', 'bits.qcow2', 'b2')
    execFileSync('cp', ['bits.qcow2', 'broken.qcow2'], { cwd: this.#template })
    // The first bitmap was in use when its user died.
    const directory = bitmapDirectory(join(this.#template, 'broken.qcow2'))
    damage(join(this.#template, 'broken.qcow2'), directory + 15, [3])
    qemu('create', '-f', 'qcow2', 'small.qcow2', '512k')
    qemu('bitmap', '--add', 'small.qcow2', 'b0')
    execFileSync('cp', ['bits.qcow2', 'stale.qcow2'], { cwd: this.#template })
    // Somebody has written to it who does not know of bitmaps.
    damage(join(this.#template, 'stale.qcow2'), 95, [0])
    qemu('create', '-f', 'qcow2', 'leak.qcow2', '1M')
    truncateSync(join(this.#template, 'leak.qcow2'), 24 * 65536)
    // A reference count for a cluster that nothing uses.
    damage(join(this.#template, 'leak.qcow2'), 0x20000 + 2 * 20, [0, 1])
    qemu('create', '-f', 'qcow2', 'corrupt.qcow2', '1M')
    io('corrupt.qcow2', 'qcow2', 'write -P 1 0 64k')
    // The cluster in use counts as free.
    damage(join(this.#template, 'corrupt.qcow2'), 0x20000 + 2 * 5, [0, 0])
    qemu('create', '-f', 'qcow2', '-o', 'lazy_refcounts=on', 'dirty.qcow2', '1M')
    damage(join(this.#template, 'dirty.qcow2'), 79, [1])
    mkdirSync(join(this.#template, 'folder'))
  }

  /** A fresh folder called `name`. */
  folder(name: string): string {
    const path = join(this.root, name)
    rmSync(path, { recursive: true, force: true })
    execFileSync('cp', ['-a', '--sparse=always', this.#template, path])
    return path
  }

  remove(): void {
    rmSync(this.root, { recursive: true, force: true })
  }
}

/** Where the bitmap directory of an image stands, bytes: for images as `qemu-img create` makes them. */
function bitmapDirectory(path: string): number {
  const head = readFileSync(path).subarray(0, 65536)
  const at = head.indexOf(Buffer.from('23852875', 'hex'))
  return Number(head.readBigUInt64BE(at + 24))
}

function damage(path: string, offset: number, bytes: readonly number[]): void {
  execFileSync('dd', [`of=${path}`, 'bs=1', `seek=${offset}`, 'conv=notrunc', 'status=none'], {
    input: Uint8Array.from(bytes),
  })
}

/** The oracle; without it nothing here can pass. */
export function runOracle(args: readonly string[], cwd: string): Outcome {
  const result = spawnSync('qemu-img', args, { cwd, encoding: 'utf8' })
  if (result.error !== undefined) {
    throw result.error
  }
  return { stdout: result.stdout, stderr: result.stderr, status: result.status ?? -1, files: names(cwd) }
}

export function names(cwd: string): string[] {
  return readdirSync(cwd).sort()
}

/** A context that keeps what is written. */
export function memoryContext(options: Partial<ToolContext> = {}) {
  let stdout = ''
  let stderr = ''
  const data: Uint8Array[] = []
  const context: ToolContext = {
    program: 'qemu-img',
    stdout: (text) => {
      stdout += text
    },
    stderr: (text) => {
      stderr += text
    },
    sink: {
      write: (chunk) => {
        data.push(chunk.slice())
        return undefined
      },
    },
    source: (async function* () {})(),
    terminal: undefined,
    signal: new AbortController().signal,
    createLayer: async (warn) => createBlockLayer({ host: createNodeHost({ warn }), drivers: allDrivers }),
    onProgressRequest: () => () => undefined,
    ...options,
  }
  return {
    context,
    get stdout() {
      return stdout
    },
    get stderr() {
      return stderr
    },
    get data() {
      return Buffer.concat(data)
    },
  }
}

/** Leaves out what cannot be the same: space on disk, times, numbers of nodes. */
export function comparable(text: string): string {
  return (
    text
      .replace(/^disk size: .*$/gm, 'disk size: …')
      // QEMU forgets the end of this line.
      .replace(/(on the image file to fix\.)\n?/g, '$1\n')
      .replace(/#block\d+/g, '#block…')
      .replace(/"actual-size": \d+/g, '"actual-size": …')
      .replace(/Run completed in [\d.]+ seconds/g, 'Run completed in … seconds')
  )
}
