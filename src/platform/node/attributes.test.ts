import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { HostFile } from '../../host/index.js'
import { createNodeHost } from './host.js'
import { libc } from './libc.js'

let folder = ''

beforeAll(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'blockgraph-attributes-'))
})

afterAll(() => {
  fs.rmSync(folder, { recursive: true })
})

/** Runs `body` on a new file of a file system made for it; false if that cannot be had here. */
async function onFileSystem(type: string, body: (file: HostFile) => void): Promise<boolean> {
  const image = join(folder, `${type}.img`)
  const mount = join(folder, type)
  const run = (...[program = '', ...args]: string[]): string =>
    execFileSync(program, args, { stdio: ['ignore', 'pipe', 'ignore'] }).toString()
  fs.writeFileSync(image, '')
  fs.truncateSync(image, 512 << 20)
  fs.mkdirSync(mount)
  try {
    run(`mkfs.${type}`, image)
    run('mount', '-o', 'loop', image, mount)
  } catch {
    return false
  }
  try {
    const file = await createNodeHost().files.open(join(mount, 'f'), { write: true, create: true })
    try {
      body(file)
    } finally {
      await file.close()
    }
  } finally {
    run('umount', mount)
  }
  return true
}

test('every file has both, whether or not they have an effect', async () => {
  const file = await createNodeHost().files.open(join(folder, 'plain'), { write: true, create: true })
  expect(file.setNoCopyOnWrite).toBeTypeOf('function')
  file.setNoCopyOnWrite?.()
  expect(file.setExtentSizeHint?.(1 << 20)).toBeTypeOf('boolean')
  await file.close()
})

test.runIf(libc() !== undefined)('xfs takes an extent size hint', async ({ skip }) => {
  const ran = await onFileSystem('xfs', (file) => {
    expect(file.setExtentSizeHint?.(1 << 20)).toBe(true)
    const shown = execFileSync('xfs_io', ['-r', '-c', 'extsize', file.path]).toString()
    expect(shown).toContain('[1048576]')
    expect(file.setExtentSizeHint?.(0)).toBe(true)
    expect(execFileSync('xfs_io', ['-r', '-c', 'extsize', file.path]).toString()).toContain('[0]')
  })
  if (!ran) {
    skip()
  }
})

test.runIf(libc() !== undefined)('btrfs turns copy-on-write off', async ({ skip }) => {
  const ran = await onFileSystem('btrfs', (file) => {
    file.setNoCopyOnWrite?.()
    expect(execFileSync('lsattr', [file.path]).toString().split(' ')[0]).toContain('C')
  })
  if (!ran) {
    skip()
  }
})
