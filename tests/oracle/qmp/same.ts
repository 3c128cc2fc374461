import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect } from 'vitest'
import { startOurs, startSystem, startTheirs } from './peers.js'
import { call, differences, record, type Step } from './transcript.js'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'qmp-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

export type Prepare = (
  img: (...args: string[]) => void,
  io: (image: string, ...commands: string[]) => void,
  dir: string,
) => void

const peers = {
  /** qemu-storage-daemon. */
  daemon: startTheirs,
  /** qemu-system-x86_64 without a machine. */
  system: startSystem,
} as const

type Theirs = keyof typeof peers

export interface SameOptions {
  /** Default: true. */
  readonly negotiate?: boolean
  /** Whose answers ours must equal; default: the storage daemon's. */
  readonly as?: readonly Theirs[]
}

/**
 * Does the steps with QEMU's programs and our daemon, each in a folder of its own that `prepare` has filled.
 *
 * @returns the lines of all of them
 */
export async function same(
  name: string,
  prepare: Prepare,
  steps: readonly Step[],
  { negotiate = true, as = ['daemon'] }: SameOptions = {},
): Promise<string[]> {
  const play = async (side: Theirs | 'ours'): Promise<{ lines: string[]; output: string }> => {
    const dir = join(folder, `${name}-${side}`)
    mkdirSync(dir)
    const run = (program: string, args: string[]): void => {
      execFileSync(program, args, { cwd: dir, stdio: 'pipe' })
    }
    prepare(
      (...args) => run('qemu-img', args),
      (image, ...commands) => run('qemu-io', [...commands.flatMap((text) => ['-c', text]), image]),
      dir,
    )
    await using peer = side === 'ours' ? startOurs(dir) : peers[side](dir)
    const lines = await record(peer, steps, negotiate)
    const output = peer.output().replaceAll(dir, 'DIR').replaceAll('qemu-system-x86_64', 'qemu-storage-daemon')
    return { lines, output }
  }
  const ours = await play('ours')
  for (const side of as) {
    const theirs = await play(side)
    expect(differences(theirs.lines, ours.lines), side).toEqual([])
    expect(ours.output, side).toEqual(theirs.output)
  }
  return ours.lines
}

export const none: Prepare = () => undefined

export const nullNode = (name: string, more: object = {}): Step =>
  call('blockdev-add', { driver: 'null-co', size: 1048576, 'node-name': name, ...more })

export const file = (name: string, more: object = {}): object => ({
  driver: 'file',
  filename: `DIR/${name}`,
  ...more,
})

/** Opens a qcow2 image whose file is a node as well, called after it. */
export const qcow2 = (name: string, node: string, more: object = {}): Step =>
  call('blockdev-add', {
    driver: 'qcow2',
    'node-name': node,
    file: file(name, { 'node-name': `${node}-file` }),
    ...more,
  })
