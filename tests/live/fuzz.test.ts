import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { seeded } from '../jobs/machine.js'
import { breakNbd, breakQmp } from './broken-clients.js'
import { layout, PatternWriter, program } from './clients.js'
import { residentBytes, sleep, startDaemon } from './load.js'

/**
 * Strangers speak NBD and QMP badly to a daemon that serves honest clients meanwhile: these must see what they wrote,
 * be answered soon, and the memory of the daemon must stay below `bound`. `npm run fuzz:daemon -- MINUTES [SEED]`
 * runs it longer.
 */
const seconds = Number(process.env.BLOCKGRAPH_LIVE_SECONDS ?? 15)
const seed = Number(process.env.BLOCKGRAPH_LIVE_SEED ?? 1)
const bound = 384 * 1024 * 1024
/** Longest that an honest client may wait, milliseconds. */
const patience = 10_000

async function soon<T>(what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} takes too long`)), patience)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

test(
  'broken clients do no harm to others',
  async () => {
    const dir = mkdtempSync(join(tmpdir(), 'fuzz-'))
    const disk = join(dir, 'disk.qcow2')
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', disk, String(layout.size)])
    const strangers = Array.from({ length: 3 }, (_, at) => [
      ...[
        '--chardev',
        `socket,id=s${at},path=${dir}/qmp${at}.sock,server=on,wait=off`,
        '--monitor',
        `s${at}`,
      ],
    ]).flat()
    const { child, client, ended } = await startDaemon(dir, [
      ...['--blockdev', `qcow2,node-name=disk,file.driver=file,file.filename=${disk}`],
      ...['--export', 'nbd,id=e,node-name=disk,name=disk,writable=on'],
      ...['--blockdev', 'null-co,node-name=nothing,size=67108864'],
      ...['--export', 'nbd,id=j,node-name=nothing,name=junk,writable=on'],
      ...strangers,
    ])
    const uri = `nbd+unix:///disk?socket=${dir}/nbd.sock`
    const writer = new PatternWriter(uri, dir, new Uint8Array(layout.size), seeded(seed))
    writer.start()
    const end = Date.now() + seconds * 1000
    const counts = { nbd: 0, qmp: 0, queries: 0, listings: 0 }
    let peak = 0
    let slowest = 0
    const until = async (step: () => Promise<void>): Promise<void> => {
      while (Date.now() < end && child.exitCode === null) {
        await step()
      }
    }
    const lanes = [
      ...[1, 2, 3, 4].map((lane) => {
        const random = seeded(seed * 100 + lane)
        return until(async () => {
          await breakNbd(join(dir, 'nbd.sock'), random)
          counts.nbd++
        })
      }),
      ...[0, 1, 2].map((lane) => {
        const random = seeded(seed * 100 + 50 + lane)
        return until(async () => {
          await breakQmp(join(dir, `qmp${lane}.sock`), random)
          counts.qmp++
        })
      }),
      until(async () => {
        const begun = performance.now()
        const nodes = await soon('a query', client.commands.queryNamedBlockNodes({ flat: true }))
        slowest = Math.max(slowest, performance.now() - begun)
        expect(nodes.some((node) => node['node-name'] === 'disk')).toBe(true)
        counts.queries++
        peak = Math.max(peak, residentBytes(child.pid ?? 0))
        await sleep(50)
      }),
      until(async () => {
        expect(await soon('a listing', program('nbdinfo', ['--size', uri]))).toBe(`${layout.size}\n`)
        counts.listings++
        await sleep(500)
      }),
      until(async () => {
        const before = writer.finished
        await sleep(patience)
        if (Date.now() < end && writer.finished === before) {
          throw new Error('the honest client of the disk is not served')
        }
      }),
    ]
    try {
      await Promise.all(lanes)
      await soon('the last write', writer.close())
      const raw = join(dir, 'disk.raw')
      writeFileSync(raw, '')
      truncateSync(raw, layout.size)
      await program('nbdcopy', [uri, raw])
      expect(writer.matches(readFileSync(raw), writer.finished, writer.finished)).toBe(true)
      await soon('quit', client.commands.quit())
      expect(await soon('the end', ended)).toBe(0)
    } catch (error) {
      child.kill('SIGKILL')
      throw new Error(`seed ${seed}: ${error instanceof Error ? error.message : error}`, { cause: error })
    }
    process.stderr.write(
      `seed ${seed}: ${counts.nbd} broken NBD clients, ${counts.qmp} broken QMP clients; honest: ${writer.finished} writes, ` +
        `${counts.queries} queries, the slowest ${Math.round(slowest)} ms, ${counts.listings} listings; ` +
        `resident at most ${Math.round(peak / 1048576)} MiB\n`,
    )
    await program('qemu-img', ['check', '-q', '-f', 'qcow2', disk])
    expect(peak).toBeLessThan(bound)
    expect(counts.nbd).toBeGreaterThan(20)
    expect(counts.qmp).toBeGreaterThan(20)
    rmSync(dir, { recursive: true, force: true })
  },
  seconds * 1000 + 120_000,
)
