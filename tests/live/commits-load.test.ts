import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { program } from './clients.js'
import { sleep, startDaemon } from './load.js'

/**
 * Short commits of the active image, one after the other, under writes that are large and many: some are always in
 * flight when a job begins and when it ends.
 */
const seconds = Number(process.env.BLOCKGRAPH_COMMITS_SECONDS ?? 10)
const size = 64 * 1024 * 1024

test(
  'commits of the active image, one after the other, while fio writes',
  async () => {
    const dir = mkdtempSync(join(tmpdir(), 'commits-'))
    const path = (name: string): string => join(dir, `${name}.qcow2`)
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', path('base'), String(size)])
    const node = (name: string): object => ({
      driver: 'qcow2',
      'node-name': name,
      discard: 'unmap',
      file: { driver: 'file', filename: path(name) },
      backing: null,
    })
    const { child, client, ended } = await startDaemon(dir, [
      ...['--blockdev', JSON.stringify(node('base'))],
      ...['--export', 'nbd,id=e,node-name=base,name=disk,writable=on'],
    ])
    const uri = `nbd+unix:///disk?socket=${dir}/nbd.sock`
    let status = ''
    void (async () => {
      for await (const { event, data } of client.events()) {
        if (event === 'JOB_STATUS_CHANGE') {
          status = String((data as { status?: unknown }).status)
        }
      }
    })()
    const until = async (wanted: string): Promise<void> => {
      for (const late = Date.now() + 60_000; status !== wanted; ) {
        if (Date.now() > late) {
          throw new Error(`the job does not get ${wanted}`)
        }
        await sleep(1)
      }
    }
    const end = Date.now() + seconds * 1000
    let commits = 0
    let runs = 0
    const guest = (async () => {
      while (Date.now() < end) {
        // Every block is written once, and read back in the end.
        await program('fio', [
          ...['--name=job', '--ioengine=nbd', `--uri=${uri}`, '--output-format=terse', '--randrepeat=0'],
          ...['--verify=md5', '--verify_fatal=1', '--verify_state_save=0', `--size=${size}`],
          ...['--rw=randwrite', '--bs=16k', '--iodepth=16', '--rate=256m,24m'],
        ])
        runs++
      }
    })()
    try {
      const jobs = async (): Promise<void> => {
        while (Date.now() < end) {
          await program('qemu-img', [
            // Large clusters: the first write to each has much to copy, and takes its time.
            ...['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=1M', '-b', path('base'), '-F', 'qcow2'],
            ...[path('top'), String(size)],
          ])
          await client.execute('blockdev-add', node('top'))
          await client.execute('blockdev-snapshot', { node: 'base', overlay: 'top' })
          status = ''
          await client.execute('block-commit', { 'job-id': 'j', device: 'top', 'base-node': 'base' })
          await until('ready')
          await client.execute('block-job-complete', { device: 'j' })
          await until('null')
          await client.execute('blockdev-del', { 'node-name': 'top' })
          rmSync(path('top'))
          commits++
        }
      }
      await Promise.all([guest, jobs()])
      await client.execute('quit')
      expect(await ended).toBe(0)
      await program('qemu-img', ['check', '-q', '-f', 'qcow2', path('base')])
      process.stderr.write(`${commits} commits, ${runs} runs of fio\n`)
      expect(commits).toBeGreaterThan(3)
      expect(runs).toBeGreaterThan(1)
      rmSync(dir, { recursive: true, force: true })
    } catch (error) {
      child.kill('SIGKILL')
      throw new Error(`after ${commits} commits and ${runs} runs of fio`, { cause: error })
    }
  },
  seconds * 1000 + 120_000,
)
