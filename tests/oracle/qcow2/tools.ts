import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { run } from '../../../src/tools/img/run.js'
import { memoryContext } from '../text/fixture.js'

/** What a command line did. */
export interface Outcome {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

/** `qemu-img`, ours, in this process. */
export async function ours(cwd: string, ...args: string[]): Promise<Outcome> {
  const start = process.cwd()
  process.chdir(cwd)
  try {
    const output = memoryContext()
    const status = await run(args, output.context)
    return { status, stdout: output.stdout, stderr: output.stderr }
  } finally {
    process.chdir(start)
  }
}

/** Damaged images can keep QEMU busy for minutes. */
const oracleLimit = 600_000

/** The oracle. Without it nothing here can pass. */
export function theirs(cwd: string, ...args: string[]): Outcome {
  const result = spawnSync('qemu-img', args, {
    cwd,
    encoding: 'utf8',
    timeout: oracleLimit,
    maxBuffer: 2 ** 28,
  })
  const timedOut = result.error !== undefined && 'code' in result.error && result.error.code === 'ETIMEDOUT'
  if (result.error !== undefined && !timedOut) {
    throw result.error
  }
  return { status: result.status ?? -1, stdout: result.stdout, stderr: result.stderr }
}

/** Runs commands of `qemu-io` on an image. */
export function io(cwd: string, image: string, ...commands: string[]): void {
  const args = ['-d', 'unmap', ...commands.flatMap((command) => ['-c', command]), image]
  const output = execFileSync('qemu-io', args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  if (/failed|error/i.test(output)) {
    throw new Error(`qemu-io ${args.join(' ')}: ${output}`)
  }
}

/** A folder of its own for a test file. */
export class Folder {
  readonly path = fs.mkdtempSync(path.join(os.tmpdir(), 'blockgraph-qcow2-'))

  /** A folder in it. */
  sub(name: string): string {
    const folder = path.join(this.path, name)
    fs.mkdirSync(folder, { recursive: true })
    return folder
  }

  remove(): void {
    fs.rmSync(this.path, { recursive: true, force: true })
  }
}

/** The file with the dates of its snapshots blotted out: they are when the tools ran. */
export function withoutDates(image: Uint8Array): Uint8Array {
  const bytes = Uint8Array.from(image)
  const view = new DataView(bytes.buffer)
  const count = view.getUint32(60)
  let at = Number(view.getBigUint64(64))
  for (let i = 0; i < count && at + 40 <= bytes.length; i++) {
    bytes.fill(0, at + 16, at + 24)
    at += 40 + view.getUint32(at + 36) + view.getUint16(at + 12) + view.getUint16(at + 14)
    at = Math.ceil(at / 8) * 8
  }
  return bytes
}

/** Where two files differ first, or undefined. */
export function firstDifference(a: Uint8Array, b: Uint8Array): string | undefined {
  const length = Math.max(a.length, b.length)
  for (let at = 0; at < length; at++) {
    if ((a[at] ?? 0) !== (b[at] ?? 0)) {
      return `byte 0x${at.toString(16)}: ${a[at]} and ${b[at]}`
    }
  }
  return undefined
}
