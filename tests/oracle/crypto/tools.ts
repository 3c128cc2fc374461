import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { gunzipSync } from 'node:zlib'
import { type Outcome, ours, theirs } from '../qcow2/tools.js'

export { Folder, type Outcome, ours, theirs } from '../qcow2/tools.js'

/** The passwords of the tests. */
export const secrets = [
  '--object',
  'secret,id=s,data=abc',
  '--object',
  'secret,id=t,data=a longer passphrase ü',
]

/** QEMU measures its own speed and gives up where the clock of CPU time is coarse. */
const unmeasurable = 'Unable to get accurate CPU usage'

/** `qemu-img` until it could measure how fast it is. */
export function theirsMeasured(cwd: string, ...args: string[]): Outcome {
  for (let tries = 0; tries < 40; tries++) {
    const outcome = theirs(cwd, ...args)
    if (!outcome.stderr.includes(unmeasurable)) {
      return outcome
    }
  }
  throw new Error(`qemu-img could not measure its speed: ${args.join(' ')}`)
}

/** Runs commands of `qemu-io` on an image given by options. */
export function ioOptions(cwd: string, options: string, ...commands: string[]): Outcome {
  const args = [...secrets, ...commands.flatMap((command) => ['-c', command]), '--image-opts', options]
  const { status, stdout, stderr } = spawnSync('qemu-io', args, { cwd, encoding: 'utf8', timeout: 60_000 })
  return { status: status ?? -1, stdout, stderr }
}

/** Fails unless the command worked. */
export function good(outcome: Outcome): Outcome {
  if (outcome.status !== 0) {
    throw new Error(`status ${outcome.status}: ${outcome.stderr}`)
  }
  return outcome
}

/** The bytes of the guest's disk, as `read` sees it: theirs or ours. */
export async function contents(who: 'ours' | 'theirs', cwd: string, options: string): Promise<Buffer> {
  const target = path.join(cwd, `${who}.raw`)
  const args = ['convert', ...secrets, '--image-opts', '-O', 'raw', options, target]
  good(who === 'ours' ? await ours(cwd, ...args) : theirs(cwd, ...args))
  const bytes = fs.readFileSync(target)
  fs.unlinkSync(target)
  return bytes
}

/** Bytes without order. */
export function noise(bytes: number, seed: number): Buffer {
  const data = Buffer.alloc(bytes)
  let state = seed * 2654435761 + 1
  for (let i = 0; i < bytes; i += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    data.writeInt32LE(state ^ (state >>> 15), i)
  }
  return data
}

/** An image's description without what is random: identifiers and speeds. */
export function described(text: string): unknown {
  return JSON.parse(text, (key, value: unknown) =>
    key === 'uuid' || key === 'iters' || key === 'master-key-iters' ? typeof value : value,
  )
}

/** Writes an image that qemu-img 7.2 made: 256 KiB with password `abc`, sevens at 1000 and nines at 200 KiB. */
export function unpack(name: 'luks' | 'qcow2', target: string): void {
  fs.writeFileSync(target, gunzipSync(fs.readFileSync(new URL(`golden/${name}.gz`, import.meta.url))))
}
