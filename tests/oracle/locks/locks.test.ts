import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createLibrary } from '../../../src/index.js'

/** Two programs, one image: the second that wants to write is refused, in QEMU's words, whoever they are. */
const tool = fileURLToPath(new URL('../../../bin/blockgraph-img', import.meta.url))
let folder: string

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'blockgraph-locks-'))
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', 'a.qcow2', '1M'], { cwd: folder })
  execFileSync('qemu-img', ['create', '-q', '-f', 'raw', 'a.raw', '1M'], { cwd: folder })
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

/** qemu-io with the image open for writing, until `stop`. */
async function qemuHolding(image: string, format: string): Promise<{ stop(): Promise<void> }> {
  const child: ChildProcess = spawn('qemu-io', ['-f', format, image], {
    cwd: folder,
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  await new Promise<void>((resolve, reject) => {
    child.stdout?.on('data', () => resolve())
    child.on('exit', () => reject(new Error('qemu-io ended')))
    child.stdin?.write('length\n')
  })
  return {
    stop: () =>
      new Promise((resolve) => {
        child.removeAllListeners('exit')
        child.on('exit', () => resolve())
        child.stdin?.end('quit\n')
      }),
  }
}

function run(program: string, ...args: string[]): { status: number | null; stderr: string } {
  const { status, stderr } = spawnSync(program, args, { cwd: folder, encoding: 'utf8' })
  return { status, stderr: stderr.replace(/^(qemu-img|blockgraph-img):/gm, 'TOOL:') }
}

const commands = (image: string, format: string): string[][] => [
  ['info', '-f', format, image],
  ['info', '-U', '-f', format, image],
  ['map', '-f', format, image],
  ['resize', '-f', format, image, '2M'],
  ['bench', '-w', '-c', '1', '-f', format, image],
  ['create', '-q', '-f', format, image, '1M'],
  ['compare', '-f', format, '-F', format, image, image],
  ...(format === 'qcow2'
    ? [
        ['check', image],
        ['check', '-U', image],
      ]
    : []),
]

for (const [image, format] of [
  ['a.qcow2', 'qcow2'],
  ['a.raw', 'raw'],
] as const) {
  describe(format, () => {
    test('while QEMU writes, our tool is refused exactly as qemu-img is', async () => {
      const holder = await qemuHolding(image, format)
      try {
        for (const args of commands(image, format)) {
          expect([args, run(tool, ...args)]).toEqual([args, run('qemu-img', ...args)])
        }
        if (format === 'qcow2') {
          expect(run(tool, 'info', image).stderr).toBe(
            `TOOL: Could not open '${image}': Failed to get shared "write" lock\nIs another process using the image [${image}]?\n`,
          )
        }
      } finally {
        await holder.stop()
      }
    })

    test('while we write, every other writer is refused', async () => {
      const holder = await qemuHolding(image, format)
      const expected = commands(image, format).map((args) => [args, run('qemu-img', ...args)])
      await holder.stop()
      const { openImage } = createLibrary()
      const path = join(folder, image)
      const ours = await openImage(path, { format, readOnly: false })
      try {
        for (const program of ['qemu-img', tool]) {
          if (format === 'qcow2') {
            expect(commands(image, format).map((args) => [args, run(program, ...args)])).toEqual(expected)
          }
          expect(run(program, 'bench', '-w', '-c', '1', '-f', format, image)).toEqual({
            status: 1,
            stderr: `TOOL: Could not open '${image}': Failed to get "write" lock\nIs another process using the image [${image}]?\n`,
          })
        }
        await expect(createLibrary().openImage(path, { format, readOnly: false })).rejects.toThrow(
          'Failed to get "write" lock',
        )
      } finally {
        await ours.close()
      }
      expect(run(tool, 'bench', '-w', '-c', '1', '-f', format, image).status).toBe(0)
    })
  })
}
