import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { run } from '../../../src/tools/img/run.js'
import { wordsOf } from '../text/cases.js'
import { comparable, memoryContext, type Outcome, runOracle } from '../text/fixture.js'

/** A command line, with what is done to the images before it. */
export interface TextCase {
  readonly line: string
  readonly prepare?: (folder: string) => void
}

/**
 * Compares what the commands print and return with QEMU's. `make` puts the images, made by the oracle,
 * into a folder, of which each command gets a copy.
 */
export function compareTexts(make: (folder: string) => void, cases: readonly TextCase[]): void {
  const start = process.cwd()
  let root = ''
  beforeAll(() => {
    root = fs.mkdtempSync(path.join(os.tmpdir(), 'blockgraph-vhd-'))
    fs.mkdirSync(path.join(root, 'template'))
    make(path.join(root, 'template'))
  })
  afterAll(() => {
    process.chdir(start)
    fs.rmSync(root, { recursive: true, force: true })
  })

  function fresh(prepare: TextCase['prepare']): string {
    const folder = path.join(root, 'work')
    fs.rmSync(folder, { recursive: true, force: true })
    execFileSync('cp', ['-a', '--sparse=always', path.join(root, 'template'), folder])
    prepare?.(folder)
    return folder
  }

  test.each(cases.map((one, index) => [`${index + 1}: qemu-img ${one.line}`, one] as const))(
    '%s',
    async (_name, { line, prepare }) => {
      const args = wordsOf(line)
      const theirs = runOracle(args, fresh(prepare))
      const folder = fresh(prepare)
      process.chdir(folder)
      const output = memoryContext()
      const status = await run(args, output.context)
      process.chdir(start)
      const shown = (of: Pick<Outcome, 'stdout' | 'stderr' | 'status'>) => ({
        stdout: comparable(of.stdout),
        // What a driver says while it opens an image comes without the program's name.
        stderr: comparable(of.stderr).replace(/^qemu-img: (VHDX (region|BAT) )/gm, '$1'),
        status: of.status,
      })
      expect(shown({ stdout: output.stdout, stderr: output.stderr, status })).toEqual(shown(theirs))
    },
  )
}

export function qemu(folder: string, ...args: string[]): void {
  execFileSync('qemu-img', args, { cwd: folder, stdio: 'pipe' })
}

export function qemuIo(folder: string, image: string, format: string, ...commands: string[]): void {
  execFileSync('qemu-io', ['-f', format, ...commands.flatMap((command) => ['-c', command]), image], {
    cwd: folder,
    stdio: 'pipe',
  })
}

/** Changes an image in place. */
export function change(file: string, how: (bytes: Buffer) => void): void {
  const bytes = fs.readFileSync(file)
  how(bytes)
  fs.writeFileSync(file, bytes)
}
