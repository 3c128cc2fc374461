import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect } from 'vitest'
import { startMachine, startOurs, startTheirs } from './peers.js'
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

/**
 * Does the steps with both daemons and with a virtual machine of QEMU's that is nothing but a monitor, each in a folder of
 * its own that `prepare` has filled. The daemons must say the same, and so must the machine but for the lines `unlike`: what
 * only QEMU's daemon, or only its machine, has.
 *
 * @returns what ours said
 */
export async function same(
  name: string,
  prepare: Prepare,
  steps: readonly Step[],
  negotiate = true,
  unlike: readonly number[] = [],
): Promise<string[]> {
  const recorded: string[][] = []
  const outputs: string[] = []
  for (const [side, start] of [
    ['theirs', startTheirs],
    ['ours', startOurs],
    ['machine', startMachine],
  ] as const) {
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
    const peer = start(dir)
    try {
      await using _running = peer
      recorded.push(await record(peer, steps, negotiate))
    } finally {
      // Nothing of it is on its way any more.
      outputs.push(peer.output().replaceAll(dir, 'DIR'))
    }
  }
  expect(differences(recorded[0] ?? [], recorded[1] ?? [])).toEqual([])
  expect(outputs[1]).toEqual(outputs[0])
  const [, ours = [], machine = []] = recorded
  const lines = Array.from({ length: Math.max(ours.length, machine.length) }, (_, at) => at)
  expect(
    lines.filter((at) => ours[at] !== machine[at]),
    differences(machine, ours).join('\n'),
  ).toEqual(unlike)
  return ours
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
