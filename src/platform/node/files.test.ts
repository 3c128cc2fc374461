import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { isBlockError } from '../../errors/index.js'
import { createNodeHost } from './host.js'

let folder = ''
const { files } = createNodeHost()

beforeAll(() => {
  folder = fs.realpathSync(fs.mkdtempSync(join(tmpdir(), 'blockgraph-files-')))
})

afterAll(() => {
  vi.unstubAllEnvs()
  fs.rmSync(folder, { recursive: true })
})

/** Code and text of the BlockError that `run` throws. */
async function failure(run: () => unknown): Promise<string> {
  try {
    await run()
  } catch (error) {
    if (isBlockError(error)) {
      return `${error.code} ${error.message}`
    }
    throw error
  }
  return 'no failure'
}

test('opening fails with the errno and its text', async () => {
  const file = join(folder, 'plain')
  fs.writeFileSync(file, '')
  const missing = join(folder, 'missing')
  expect(await failure(() => files.open(missing))).toBe('ENOENT No such file or directory')
  expect(await failure(() => files.open(join(file, 'x')))).toBe('ENOTDIR Not a directory')
  expect(await failure(() => files.open(folder, { write: true }))).toBe('EISDIR Is a directory')
  const exclusive = { write: true, create: true, exclusive: true }
  expect(await failure(() => files.open(file, exclusive))).toBe('EEXIST File exists')
  expect(await failure(() => files.open(`${folder}/${'n'.repeat(300)}`))).toBe(
    'ENAMETOOLONG File name too long',
  )
  expect(await failure(() => files.open('zero\0byte'))).toBe('ENOENT No such file or directory')
})

test.skipIf(process.getuid?.() === 0)('a file without permission gives EACCES', async () => {
  const path = join(folder, 'secret')
  fs.writeFileSync(path, '', { mode: 0 })
  expect(await failure(() => files.open(path))).toBe('EACCES Permission denied')
})

test('creating, truncating and the mode of a new file', async () => {
  const path = join(folder, 'new')
  const file = await files.open(path, { write: true, create: true, exclusive: true, mode: 0o600 })
  await file.write(0, 3, new Uint8Array([1, 2, 3]), 0)
  await file.close()
  expect(fs.statSync(path).mode & 0o777).toBe(0o600)
  const again = await files.open(path, { write: true, create: true })
  expect(again.size()).toBe(3)
  await again.close()
  const empty = await files.open(path, { write: true, truncate: true })
  expect(empty.size()).toBe(0)
  await empty.close()
})

test('names: stat, rename, unlink, realPath, absolute', async () => {
  const path = join(folder, 'name')
  const link = join(folder, 'link')
  fs.writeFileSync(path, 'four')
  fs.symlinkSync('name', link)
  expect(files.stat(link)).toMatchObject({ kind: 'regular', size: 4, identity: files.stat(path)?.identity })
  expect(files.stat(folder)?.kind).toBe('directory')
  expect(files.stat('/dev/null')?.kind).toBe('char')
  expect(files.stat(join(folder, 'nothing'))).toBeUndefined()
  expect(files.stat(join(path, 'below'))).toBeUndefined()
  expect(files.realPath(link)).toBe(path)
  expect(files.realPath(join(folder, 'nothing'))).toBeUndefined()
  expect(files.absolute('x')).toBe(join(process.cwd(), 'x'))
  files.rename(path, join(folder, 'other'))
  expect(files.stat(path)).toBeUndefined()
  expect(await failure(() => files.rename(path, link))).toBe('ENOENT No such file or directory')
  files.unlink(link)
  expect(await failure(() => files.unlink(link))).toBe('ENOENT No such file or directory')
})

test('other kinds of file can be opened', async ({ skip }) => {
  const directory = await files.open(folder)
  expect(directory.kind).toBe('directory')
  expect(directory.canLock).toBe(false)
  await directory.close()
  const device = await files.open('/dev/null', { write: true })
  expect(device.kind).toBe('char')
  await device.close()
  const fifo = join(folder, 'fifo')
  try {
    execFileSync('mkfifo', [fifo])
  } catch {
    skip()
  }
  const pipe = await files.open(fifo, { write: true })
  expect(pipe.kind).toBe('fifo')
  expect(await failure(() => pipe.read(0, 10, new Uint8Array(10), 0))).toBe('ESPIPE Illegal seek')
  await pipe.close()
})

test('temporary files are empty, private and told apart', async () => {
  vi.stubEnv('TMPDIR', folder)
  const paths = [files.createTemporary('vl'), files.createTemporary('vl')]
  for (const path of paths) {
    expect(path.slice(folder.length)).toMatch(/^\/vl\.\w{6}$/)
    expect(fs.statSync(path)).toMatchObject({ size: 0 })
    expect(fs.statSync(path).mode & 0o777).toBe(0o600)
  }
  expect(paths[0]).not.toBe(paths[1])
  vi.stubEnv('TMPDIR', join(folder, 'nowhere'))
  expect(await failure(() => files.createTemporary('vl'))).toBe(
    `ENOENT Could not open temporary file '${folder}/nowhere/vl.XXXXXX': No such file or directory`,
  )
  vi.stubEnv('TMPDIR', `/${'d'.repeat(5000)}`)
  expect(await failure(() => files.createTemporary('vl'))).toContain('EOVERFLOW')
})

test('a whole file is read up to a limit', async () => {
  const path = join(folder, 'whole')
  const data = Uint8Array.from({ length: 20_000 }, (_, i) => i & 0xff)
  fs.writeFileSync(path, data)
  for (const limit of [20_000, 1 << 20]) {
    expect(Buffer.compare(files.readWhole(path, limit), data)).toBe(0)
  }
  expect(await failure(() => files.readWhole(path, 19_999))).toBe('EFBIG File too large')
  expect(await failure(() => files.readWhole(folder, 100))).toBe('EISDIR Is a directory')
  expect(await failure(() => files.readWhole(join(folder, 'none'), 100))).toContain('ENOENT')
  fs.writeFileSync(path, '')
  expect(files.readWhole(path, 0)).toEqual(new Uint8Array(0))
})

test.runIf(fs.existsSync('/proc/self/status'))('files that hide their size are read whole', () => {
  expect(Buffer.from(files.readWhole('/proc/self/status', 65536)).toString()).toContain('Pid:')
})
