import { spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createNodeHost } from './host.js'
import { libc } from './libc.js'

let folder = ''
const { files } = createNodeHost()

beforeAll(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'blockgraph-locks-'))
})

afterAll(() => {
  fs.rmSync(folder, { recursive: true })
})

test.runIf(libc() !== undefined)('locks of two open files of one process conflict', async () => {
  const path = join(folder, 'locked')
  fs.writeFileSync(path, '')
  const a = await files.open(path, { write: true })
  const b = await files.open(path, { write: true })
  expect(a.canLock).toBe(true)
  expect(a.setLock(100, 1, 'shared')).toBe(true)
  expect(b.setLock(100, 1, 'shared')).toBe(true)
  expect(b.lockConflicts(100, 1, 'shared')).toBe(false)
  expect(b.lockConflicts(100, 1, 'exclusive')).toBe(true)
  expect(b.setLock(100, 1, 'exclusive')).toBe(false)
  expect(a.setLock(100, 1, 'none')).toBe(true)
  expect(b.setLock(100, 1, 'exclusive')).toBe(true)
  expect(a.lockConflicts(100, 1, 'shared')).toBe(true)
  expect(a.lockConflicts(90, 20, 'shared')).toBe(true)
  expect(a.lockConflicts(101, 1, 'exclusive')).toBe(false)
  expect(b.lockConflicts(100, 1, 'exclusive')).toBe(false)
  await b.close()
  expect(a.setLock(100, 1, 'exclusive')).toBe(true)
  await a.close()
})

test.runIf(libc() !== undefined)('an exclusive lock needs a file opened for writing', async () => {
  const path = join(folder, 'read')
  fs.writeFileSync(path, '')
  const file = await files.open(path)
  expect(file.setLock(0, 1, 'shared')).toBe(true)
  expect(() => file.setLock(0, 1, 'exclusive')).toThrow('Bad file descriptor')
  await file.close()
})

test.runIf(libc() !== undefined)('locks of another process are seen', async ({ skip }) => {
  const path = join(folder, 'foreign')
  fs.writeFileSync(path, '')
  const script = `
import fcntl, struct, sys
f = open(sys.argv[1], 'r+b')
fcntl.fcntl(f, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 201, 1, 0))
print('locked', flush=True)
sys.stdin.read()
`
  const child = spawn('python3', ['-c', script, path], { stdio: ['pipe', 'pipe', 'ignore'] })
  const gone = once(child, 'exit')
  try {
    const [line] = await Promise.race([once(child.stdout, 'data'), gone, once(child, 'error')])
    if (!String(line).startsWith('locked')) {
      skip()
    }
    const file = await files.open(path, { write: true })
    expect(file.lockConflicts(201, 1, 'shared')).toBe(true)
    expect(file.setLock(201, 1, 'shared')).toBe(false)
    expect(file.setLock(200, 1, 'exclusive')).toBe(true)
    child.stdin.end()
    await gone
    expect(file.setLock(201, 1, 'shared')).toBe(true)
    await file.close()
  } finally {
    child.stdin.end()
  }
})
