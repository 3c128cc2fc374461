import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { connectQmp, type QmpClient, type QmpEvent } from '../../src/index.js'
import { seeded } from '../jobs/machine.js'
import { FioClient, layout, makeLargeFilesystem, modelled, PatternWriter, program } from './clients.js'

const tool = fileURLToPath(new URL('../../bin/blockgraph-storage-daemon', import.meta.url))
const fioBytes = 16 * 1024 * 1024

export const sleep = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, milliseconds))

/** Memory of a process that is in use, in bytes. */
export function residentBytes(pid: number): number {
  const found = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))
  return Number(found?.[1] ?? 0) * 1024
}

/** Our daemon as a process with a QMP socket `qmp.sock` and an NBD server `nbd.sock` in `dir`. */
export async function startDaemon(
  dir: string,
  more: readonly string[],
): Promise<{ child: ChildProcess; client: QmpClient; ended: Promise<number | null> }> {
  const child = spawn(
    tool,
    [
      ...['--nbd-server', `addr.type=unix,addr.path=${dir}/nbd.sock`],
      ...['--chardev', `socket,id=c,path=${dir}/qmp.sock,server=on,wait=off`, '--monitor', 'c'],
      ...more,
    ],
    { cwd: dir, stdio: ['ignore', 'inherit', 'inherit'] },
  )
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve))
  process.once('exit', () => child.kill('SIGKILL'))
  for (let i = 0; ; i++) {
    const client = await connectQmp(join(dir, 'qmp.sock')).catch(() => undefined)
    if (client !== undefined) {
      return { child, client, ended }
    }
    if (i > 500 || child.exitCode !== null) {
      throw new Error('the daemon does not answer')
    }
    await sleep(20)
  }
}

export interface LoadOptions {
  readonly dir: string
  readonly seconds: number
  readonly seed: number
  readonly report: (line: string) => void
}

interface Outcome {
  readonly succeeded: boolean
  /** It was asked to put its target in place of the source, and did. */
  readonly completed: boolean
  /** Count of writes begun when it was over. */
  readonly end: number
  /** Count of writes finished before it was asked to end. */
  readonly asked: number
}

/**
 * A disk that two clients write over NBD while jobs come and go on it. The chain under the export is known by the
 * names of its nodes; node `x` is the image `x.qcow2`.
 */
export class Load {
  readonly counts = new Map<string, number>()
  jobs = 0
  checks = 0
  patternChecks = 0
  peak = 0
  readonly #options: LoadOptions
  readonly #random: (below: number) => number
  #chain: string[] = ['n0']
  #names = 1
  #client!: QmpClient
  #child!: ChildProcess
  #ended!: Promise<number | null>
  #writer!: PatternWriter
  #fio!: FioClient
  readonly #status = new Map<string, string>()
  readonly #over = new Map<string, { error: string | undefined; cancelled: boolean; at: number }>()
  /** What has been done, for whom a failure is shown to. */
  readonly #log: string[] = []
  #failure: Error | undefined

  constructor(options: LoadOptions) {
    this.#options = options
    this.#random = seeded(options.seed)
  }

  get fioRuns(): number {
    return this.#fio.runs
  }

  get writes(): number {
    return this.#writer.finished
  }

  #path(node: string): string {
    return join(this.#options.dir, `${node}.qcow2`)
  }

  async run(): Promise<void> {
    try {
      await this.#start()
      const end = Date.now() + this.#options.seconds * 1000
      let told = Date.now()
      while (Date.now() < end) {
        await this.#job()
        this.jobs++
        await this.#checkImages()
        if (this.#random(2) === 0) {
          await this.#checkPatterns()
        }
        if (this.jobs % 8 === 0) {
          await this.#quiet()
        }
        this.peak = Math.max(this.peak, residentBytes(this.#child.pid ?? 0))
        if (Date.now() - told > 60_000) {
          told = Date.now()
          this.#options.report(this.summary())
        }
      }
      await this.#finish()
    } catch (error) {
      this.#child?.kill('SIGKILL')
      throw new Error(
        `seed ${this.#options.seed}: ${error instanceof Error ? error.stack : error}\n${this.#log.join('\n')}`,
        { cause: error },
      )
    }
  }

  summary(): string {
    const kinds = [...this.counts].sort().map(([kind, count]) => `${kind} ${count}`)
    return `${this.jobs} jobs (${kinds.join(', ')}), ${this.writes} writes of patterns, ${this.fioRuns} runs of fio, ${
      this.checks
    } checks of everything, ${this.patternChecks} of the patterns, resident at most ${Math.round(this.peak / 1048576)} MiB`
  }

  async #start(): Promise<void> {
    const { dir, seed } = this.#options
    const raw = join(dir, 'first.raw')
    const fioOffset = makeLargeFilesystem(raw, fioBytes)
    execFileSync('truncate', ['-s', String(layout.size), raw])
    execFileSync('mke2fs', ['-q', '-F', '-E', `offset=${layout.small.offset}`, '-b', '1024', raw, '4096'], {
      stdio: 'pipe',
    })
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', this.#path('n0'), String(layout.size)])
    const { child, client, ended } = await startDaemon(dir, [
      ...[
        '--blockdev',
        `qcow2,node-name=n0,discard=unmap,file.driver=file,file.filename=${this.#path('n0')}`,
      ],
      ...['--export', 'nbd,id=e,node-name=n0,name=disk,writable=on'],
    ])
    this.#child = child
    this.#client = client
    this.#ended = ended
    void this.#listen()
    const uri = `nbd+unix:///disk?socket=${dir}/nbd.sock`
    await program('nbdcopy', [raw, uri])
    const contents = readFileSync(raw)
    this.#writer = new PatternWriter(uri, dir, contents, seeded(seed + 1))
    this.#fio = new FioClient(uri, fioOffset, fioBytes, contents, seeded(seed + 2))
    await this.#quiet()
  }

  async #listen(): Promise<void> {
    for await (const event of this.#client.events()) {
      this.#heard(event)
    }
  }

  #heard({ event, data }: QmpEvent): void {
    const fields = data as { id?: string; device?: string; status?: string; error?: string }
    if (event === 'JOB_STATUS_CHANGE') {
      this.#status.set(fields.id ?? '', fields.status ?? '')
    } else if (event === 'BLOCK_JOB_COMPLETED' || event === 'BLOCK_JOB_CANCELLED') {
      this.#over.set(fields.device ?? '', {
        error: fields.error,
        cancelled: event === 'BLOCK_JOB_CANCELLED',
        at: this.#writer.begun,
      })
    } else if (event === 'BLOCK_JOB_ERROR' || event === 'BLOCK_IMAGE_CORRUPTED') {
      this.#failure = new Error(`${event} ${JSON.stringify(data)}`)
    }
  }

  async #name(backing?: string): Promise<string> {
    const name = `n${this.#names++}`
    const cluster = [4096, 65536, 524288][this.#random(3)] ?? 65536
    await program('qemu-img', [
      ...['create', '-q', '-f', 'qcow2', '-o', `cluster_size=${cluster}`],
      ...(backing === undefined ? [] : ['-b', `${backing}.qcow2`, '-F', 'qcow2']),
      ...[this.#path(name), String(layout.size)],
    ])
    return name
  }

  async #add(name: string, backing: string | null): Promise<void> {
    await this.#client.execute('blockdev-add', {
      driver: 'qcow2',
      'node-name': name,
      discard: 'unmap',
      file: { driver: 'file', filename: this.#path(name) },
      backing,
    })
  }

  /** Takes nodes that nobody uses any more out of the graph, and their files away. */
  async #remove(names: readonly string[]): Promise<void> {
    for (const name of names) {
      await this.#client.execute('blockdev-del', { 'node-name': name })
      rmSync(this.#path(name))
    }
  }

  /** Asks this and that of a job until it is over. */
  async #drive(id: string, ending: 'complete' | 'cancel'): Promise<Outcome> {
    const random = this.#random
    const client = this.#client
    let paused = false
    let forced = false
    let asked: number | undefined
    let ready = 0
    const give = random(3) === 0
    const late = Date.now() + 120_000
    for (;;) {
      await sleep(20 + random(80))
      if (this.#failure !== undefined) {
        throw this.#failure
      }
      const over = this.#over.get(id)
      if (over !== undefined) {
        this.#over.delete(id)
        if (over.error !== undefined) {
          throw new Error(`job ${id} failed: ${over.error}`)
        }
        // With auto-dismiss the job goes after its event.
        while (this.#status.get(id) !== 'null') {
          await sleep(5)
        }
        const succeeded = !over.cancelled || (asked !== undefined && !forced && ending === 'cancel')
        const outcome = {
          succeeded,
          completed: !over.cancelled && asked !== undefined && ending === 'complete',
          end: over.at,
          asked: asked ?? 0,
        }
        const word = succeeded ? (outcome.completed ? 'completed' : 'succeeded') : 'cancelled'
        this.#log.push(`  ${id} ${word}, ${this.#counts()}`)
        return outcome
      }
      if (Date.now() > late) {
        throw new Error(`job ${id} does not end: ${JSON.stringify(await client.execute('query-block-jobs'))}`)
      }
      const status = this.#status.get(id)
      const action = random(30)
      // What a job in its last moments refuses is no fault.
      const ask = async (command: string, more: object = {}): Promise<boolean> => {
        try {
          await client.execute(command, { device: id, ...more })
          return true
        } catch (error) {
          this.#log.push(`  ${command}: ${error instanceof Error ? error.message : error}`)
          return false
        }
      }
      if (paused) {
        if (action < 10) {
          await ask('block-job-resume')
          paused = false
        }
      } else if (action === 0) {
        await ask('block-job-pause')
        paused = true
      } else if (action === 1) {
        await ask('block-job-set-speed', { speed: [0, 16 << 20, 64 << 20][random(3)] })
      } else if (give && action < 6 && asked === undefined && !forced) {
        forced = true
        this.#log.push(`  ${id} cancel by force while ${status}`)
        await ask('block-job-cancel', { force: true })
      } else if (status === 'ready' && asked === undefined && !forced && (action < 12 || ready++ > 20)) {
        asked = this.#writer.finished
        if (!(await ask(ending === 'complete' ? 'block-job-complete' : 'block-job-cancel'))) {
          asked = undefined
        }
      }
    }
  }

  async #job(): Promise<void> {
    const deep = this.#chain.length > 1
    const kind = this.#chain.length > 4 ? 3 + this.#random(3) : deep ? this.#random(6) : this.#random(3)
    const id = `j${this.jobs}`
    const kinds = ['backup', 'mirror', 'overlay', 'active commit', 'commit', 'stream'] as const
    const name = kinds[kind] ?? 'backup'
    this.#log.push(`${id} ${name} on ${this.#chain.join(' ')}, ${this.#counts()}`)
    const speed = [16, 32, 64][this.#random(3)] ?? 16
    const common = { 'job-id': id, device: this.#chain[0] ?? '', speed: speed << 20 }
    let succeeded = true
    if (name === 'backup') {
      succeeded = await this.#backup(common)
    } else if (name === 'mirror') {
      succeeded = await this.#mirror(common)
    } else if (name === 'overlay') {
      const top = this.#chain[0] ?? ''
      const overlay = await this.#name(top)
      await this.#add(overlay, null)
      await this.#client.execute('blockdev-snapshot', { node: top, overlay })
      this.#chain.unshift(overlay)
    } else if (name === 'stream') {
      succeeded = await this.#stream(common)
    } else {
      succeeded = await this.#commit(common, name === 'active commit')
    }
    const key = succeeded ? name : `${name} cancelled`
    this.counts.set(key, (this.counts.get(key) ?? 0) + 1)
  }

  #counts(): string {
    return `${this.#writer.finished} of ${this.#writer.begun} writes done`
  }

  /** The images below the active one, which nobody writes now, must be sound, and each header name the next image. */
  async #checkImages(): Promise<void> {
    for (const [depth, name] of this.#chain.entries()) {
      const path = this.#path(name)
      const info = await program('qemu-img', ['info', '-U', '-f', 'qcow2', '--output=json', path])
      const { 'backing-filename': named } = JSON.parse(info) as { 'backing-filename'?: string }
      const below = this.#chain[depth + 1]
      if (named !== (below === undefined ? undefined : `${below}.qcow2`)) {
        throw new Error(`the header of ${name} names ${named}, and ${below} is below it`)
      }
      if (depth > 0) {
        // What is not flushed yet may show as leaks.
        await program('qemu-img', ['check', '-U', '-q', '-f', 'qcow2', path], [0, 3])
      }
    }
  }

  /** With the writer of patterns at rest, what it wrote must be there. */
  async #checkPatterns(): Promise<void> {
    await this.#writer.stop()
    const { dir } = this.#options
    const part = join(dir, 'patterns.raw')
    const server = `file.driver=nbd,file.export=disk,file.server.type=unix,file.server.path=${dir}/nbd.sock`
    const range = `driver=raw,offset=${modelled},size=${layout.size - modelled}`
    await program('qemu-img', ['convert', '-O', 'raw', '--image-opts', `${range},${server}`, part])
    const contents = new Uint8Array(layout.size)
    contents.set(readFileSync(part), modelled)
    const count = this.#writer.finished
    this.#expectPatterns('the export', contents, count, count)
    rmSync(part)
    this.patternChecks++
    this.#writer.start()
  }

  #expectPatterns(what: string, contents: Uint8Array, from: number, to: number): void {
    if (!this.#writer.matches(contents, from, to)) {
      const why = this.#writer.explain(contents, to)
      throw new Error(`${what} is not the disk after any of ${from} to ${to} writes: ${why}`)
    }
  }

  /** The target of a job, closed, must be the disk at a moment between two counts of writes. */
  async #expectTarget(name: string, from: number, to: number): Promise<void> {
    const raw = join(this.#options.dir, `${name}.raw`)
    await program('qemu-img', ['check', '-q', '-f', 'qcow2', this.#path(name)])
    await program('qemu-img', ['convert', '-U', '-f', 'qcow2', '-O', 'raw', this.#path(name), raw])
    await this.#expectDisk(raw, from, to)
    rmSync(this.#path(name))
  }

  /** A copy of the disk, which goes, must be of a moment between two counts of writes. */
  async #expectDisk(raw: string, from: number, to: number): Promise<void> {
    const contents = readFileSync(raw)
    this.#expectPatterns(raw, contents, from, to)
    const torn = this.#fio.torn(contents)
    if (torn !== undefined) {
      throw new Error(`${raw} has something at ${torn} that nobody wrote`)
    }
    await program('e2fsck', ['-fn', raw])
    await program('e2fsck', ['-fn', `${raw}?offset=${layout.small.offset}`])
    rmSync(raw)
  }

  async #backup(common: { 'job-id': string; device: string }): Promise<boolean> {
    const sync = this.#chain.length > 1 && this.#random(2) === 0 ? 'top' : 'full'
    const target = await this.#name(sync === 'top' ? this.#chain[1] : undefined)
    await this.#add(target, sync === 'top' ? (this.#chain[1] ?? null) : null)
    const from = this.#writer.finished
    await this.#client.execute('blockdev-backup', { ...common, target, sync })
    const to = this.#writer.begun
    const { succeeded } = await this.#drive(common['job-id'], 'complete')
    await this.#client.execute('blockdev-del', { 'node-name': target })
    if (succeeded) {
      await this.#expectTarget(target, from, to)
    } else {
      rmSync(this.#path(target))
    }
    return succeeded
  }

  async #mirror(common: { 'job-id': string; device: string }): Promise<boolean> {
    const sync = this.#chain.length > 1 && this.#random(2) === 0 ? 'top' : 'full'
    const below = sync === 'top' ? this.#chain.slice(1) : []
    const target = await this.#name(below[0])
    await this.#add(target, below[0] ?? null)
    await this.#client.execute('blockdev-mirror', {
      ...common,
      target,
      sync,
      'copy-mode': this.#random(2) === 0 ? 'background' : 'write-blocking',
    })
    const ending = this.#random(2) === 0 ? 'complete' : 'cancel'
    const { succeeded, completed, asked, end } = await this.#drive(common['job-id'], ending)
    if (completed) {
      const old = this.#chain.slice(0, this.#chain.length - below.length)
      this.#chain = [target, ...below]
      await this.#remove(old)
      return true
    }
    await this.#client.execute('blockdev-del', { 'node-name': target })
    if (succeeded) {
      await this.#expectTarget(target, asked, end)
    } else {
      rmSync(this.#path(target))
    }
    return succeeded
  }

  async #commit(common: { 'job-id': string }, active: boolean): Promise<boolean> {
    const last = this.#chain.length - 1
    const top = active || last < 2 ? 0 : 1 + this.#random(last - 1)
    const base = top + 1 + this.#random(last - top)
    await this.#client.execute('block-commit', {
      ...common,
      'top-node': this.#chain[top],
      'base-node': this.#chain[base],
      // Without it the name that is recorded tells of images that are below the base only now.
      ...(top > 0 ? { 'backing-file': `${this.#chain[base]}.qcow2` } : {}),
    })
    const { succeeded, completed } = await this.#drive(common['job-id'], 'complete')
    const done = succeeded && (top > 0 || completed)
    if (done) {
      await this.#remove(this.#chain.splice(top, base - top))
    }
    return done
  }

  async #stream(common: { 'job-id': string }): Promise<boolean> {
    const last = this.#chain.length - 1
    const to = this.#random(last)
    const base = to + 1 + this.#random(last - to)
    const node = this.#chain[base + 1] === undefined || this.#random(2) === 0 ? undefined : this.#chain[base]
    await this.#client.execute('block-stream', {
      ...common,
      device: this.#chain[to],
      ...(node === undefined ? {} : { 'base-node': node, 'backing-file': `${node}.qcow2` }),
    })
    const { succeeded } = await this.#drive(common['job-id'], 'complete')
    if (succeeded) {
      const end = node === undefined ? this.#chain.length : base
      await this.#remove(this.#chain.splice(to + 1, end - to - 1))
    }
    return succeeded
  }

  /** With the clients at rest the export must be what the model says, to the byte. */
  async #quiet(): Promise<void> {
    await this.#writer.stop()
    await this.#fio.stop()
    const { dir } = this.#options
    const raw = join(dir, 'quiet.raw')
    await program('nbdcopy', [`nbd+unix:///disk?socket=${dir}/nbd.sock`, raw])
    const count = this.#writer.finished
    await this.#expectDisk(raw, count, count)
    this.checks++
    this.#writer.start()
    this.#fio.start()
  }

  async #finish(): Promise<void> {
    await this.#quiet()
    await this.#fio.stop()
    await this.#writer.close()
    this.#log.push('quit')
    await this.#client.execute('quit')
    const code = await this.#ended
    if (code !== 0) {
      throw new Error(`the daemon ended with ${code}`)
    }
    for (const name of this.#chain) {
      await program('qemu-img', ['check', '-q', '-f', 'qcow2', this.#path(name)])
    }
    const count = this.#writer.finished
    await this.#expectTarget(this.#chain[0] ?? '', count, count)
  }
}
