import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { allDrivers } from '../../../src/all-drivers.js'
import { createBlockLayer, reopenNode, reopenSetReadOnly } from '../../../src/graph/index.js'
import { createNodeHost } from '../../../src/platform/node/index.js'
import { run } from '../../../src/tools/img/run.js'
import { memoryContext } from '../text/fixture.js'

/** Files are opened again by a reopen: their locks must be those of QEMU before, after and in between. */
const start = process.cwd()
let folder: string

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'blockgraph-reopen-'))
  const img = (...args: string[]) => execFileSync('qemu-img', args, { cwd: folder, stdio: 'pipe' })
  img('create', '-q', '-f', 'raw', 'base.raw', '1M')
  img('create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'a.qcow2')
  execFileSync('qemu-io', ['-c', 'write -P 1 0 64k', 'a.qcow2'], { cwd: folder, stdio: 'pipe' })
})

afterAll(() => {
  process.chdir(start)
  rmSync(folder, { recursive: true, force: true })
})

/** Bytes of the file that are locked by anybody. */
function lockedBytes(name: string): number[] {
  const inode = String(statSync(join(folder, name)).ino)
  const bytes = new Set<number>()
  for (const line of readFileSync('/proc/locks', 'utf8').split('\n')) {
    const fields = line.trim().split(/\s+/)
    if (fields[5]?.split(':').at(-1) === inode) {
      for (let byte = Number(fields[6]); byte <= Number(fields[7]); byte++) {
        bytes.add(byte)
      }
    }
  }
  return [...bytes].sort((a, b) => a - b)
}

/** What `look` sees while qemu-io has run `commands` and waits. */
async function besideQemu<T>(
  args: readonly string[],
  commands: readonly string[],
  look: () => T | Promise<T>,
): Promise<T> {
  const child: ChildProcess = spawn('qemu-io', args, { cwd: folder, stdio: ['pipe', 'pipe', 'inherit'] })
  const gone = new Promise<void>((resolve) => child.on('exit', () => resolve()))
  try {
    let prompts = 0
    let wake = (): void => undefined
    child.stdout?.on('data', (data: Buffer) => {
      prompts += data.toString().split('qemu-io> ').length - 1
      wake()
    })
    const prompt = async (wanted: number): Promise<void> => {
      while (prompts < wanted) {
        await new Promise<void>((resolve, reject) => {
          wake = resolve
          child.once('exit', () => reject(new Error('qemu-io ended')))
        })
      }
    }
    // It sees one line at a time.
    for (const [index, command] of commands.entries()) {
      await prompt(index + 1)
      child.stdin?.write(`${command}\n`)
    }
    await prompt(commands.length + 1)
    return await look()
  } finally {
    child.stdin?.end('quit\n')
    await gone
  }
}

const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })

test('the same bytes are locked as after the same reopen in QEMU', async () => {
  const look = () => [lockedBytes('a.qcow2'), lockedBytes('base.raw')]
  const theirs = {
    written: await besideQemu(['a.qcow2'], [], look),
    read: await besideQemu(['a.qcow2'], ['reopen -r'], look),
    again: await besideQemu(['a.qcow2'], ['reopen -r', 'reopen -w'], look),
    direct: await besideQemu(['a.qcow2'], ['reopen -c none'], look),
  }
  const { Backend, Perm } = await import('../../../src/graph/index.js')
  const path = join(folder, 'a.qcow2')
  const user = await Backend.open(layer, path, { driver: 'qcow2' }, { write: true })
  const { node } = user
  expect(look()).toEqual(theirs.written)
  await user.setPermissions(Perm.consistentRead, Perm.all)
  await reopenSetReadOnly(node, true)
  expect(look()).toEqual(theirs.read)
  await reopenSetReadOnly(node, false)
  await user.setPermissions(Perm.consistentRead | Perm.write, Perm.all)
  expect(look()).toEqual(theirs.again)
  await reopenNode(node, { 'cache.direct': true })
  expect(look()).toEqual(theirs.direct)
  const buffer = new Uint8Array(4096)
  await user.write(65536, 4096, buffer.fill(7))
  await user.close()
  expect(look()).toEqual([[], []])
})

test('at no moment of a reopen is the image without its locks', async () => {
  const path = join(folder, 'a.qcow2')
  const seen = new Set<string>()
  const host = createNodeHost()
  const watched = createBlockLayer({
    host: {
      ...host,
      files: {
        ...host.files,
        // The moments around the new descriptor are those that matter.
        open: async (name, options) => {
          const file = await host.files.open(name, options)
          const look = () => seen.add(lockedBytes('a.qcow2').join(' '))
          const { setLock, close } = file
          file.setLock = (...args) => {
            const done = setLock.apply(file, args)
            look()
            return done
          }
          file.close = () => {
            look()
            return close.apply(file)
          }
          look()
          return file
        },
        stat: (name) => host.files.stat(name),
        realPath: (name) => host.files.realPath(name),
        absolute: (name) => host.files.absolute(name),
        unlink: (name) => host.files.unlink(name),
        rename: (from, to) => host.files.rename(from, to),
        createTemporary: (prefix) => host.files.createTemporary(prefix),
        readWhole: (name, limit) => host.files.readWhole(name, limit),
      },
    },
    drivers: allDrivers,
  })
  const node = await watched.open(path, { driver: 'qcow2' }, { write: true })
  const held = lockedBytes('a.qcow2').join(' ')
  seen.clear()
  for (let round = 0; round < 20; round++) {
    await reopenNode(node, { 'cache.direct': round % 2 === 0 })
  }
  expect([...seen]).toEqual([held])
  await watched.unref(node)
})

test('a file that is another one by now is not taken for the same', async () => {
  execFileSync('qemu-img', ['create', '-q', '-f', 'raw', 'one.raw', '1M'], { cwd: folder })
  execFileSync('qemu-img', ['create', '-q', '-f', 'raw', 'two.raw', '1M'], { cwd: folder })
  const path = join(folder, 'one.raw')
  const node = await layer.open(path, { driver: 'raw' }, { write: true })
  renameSync(join(folder, 'two.raw'), path)
  await expect(reopenSetReadOnly(node, true)).rejects.toThrow(
    `Could not reopen '${path}': it is another file now`,
  )
  expect(node.readOnly).toBe(false)
  await node.write(0, 512, new Uint8Array(512).fill(1), 0, 0)
  await layer.unref(node)
})

test('a commit into a file that somebody writes to is refused as by QEMU', async () => {
  await besideQemu(['-f', 'raw', 'base.raw'], [], async () => {
    const theirs = await new Promise<{ code: number | null; text: string }>((resolve) => {
      const child = spawn('qemu-img', ['commit', 'a.qcow2'], { cwd: folder, stdio: 'pipe' })
      let text = ''
      child.stderr.on('data', (data: Buffer) => {
        text += data.toString()
      })
      child.on('exit', (code) => resolve({ code, text }))
    })
    process.chdir(folder)
    const output = memoryContext()
    const code = await run(['commit', 'a.qcow2'], output.context)
    process.chdir(start)
    expect({ code, text: output.stderr }).toEqual(theirs)
  })
  await besideQemu(['-r', '-f', 'raw', 'base.raw'], [], async () => {
    process.chdir(folder)
    const output = memoryContext()
    const code = await run(['commit', '-d', 'a.qcow2'], output.context)
    process.chdir(start)
    expect([code, output.stderr, output.stdout]).toEqual([0, '', 'Image committed.\n'])
  })
})
