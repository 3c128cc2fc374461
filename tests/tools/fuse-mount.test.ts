import { execFile, execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { FuseExport } from '../../src/exports/index.js'
import { type BlockLayer, createBlockLayer } from '../../src/graph/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'

const run = promisify(execFile)
const host = createNodeHost()

/** Whether this user of this machine may mount; containers often may not. */
async function mayMount(): Promise<boolean> {
  const probe = fs.mkdtempSync(join(tmpdir(), 'blockgraph-fuse-'))
  const file = join(probe, 'probe')
  fs.writeFileSync(file, '')
  try {
    const channel = await host.fuse?.mount(file, { allowOther: false, maxWrite: 65536 })
    const end = channel?.receive()
    await channel?.unmount()
    await end
    return channel !== undefined
  } catch {
    return false
  } finally {
    fs.rmSync(probe, { recursive: true, force: true })
  }
}

const allowed = await mayMount()

// Programs that look at the mount must be other processes: this one answers them.
describe.skipIf(!allowed)('a mounted image, used by programs', () => {
  let folder: string
  let layer: BlockLayer
  let mounted: FuseExport
  let mountpoint: string

  beforeAll(async () => {
    folder = fs.mkdtempSync(join(tmpdir(), 'blockgraph-fuse-'))
    mountpoint = join(folder, 'disk')
    fs.writeFileSync(mountpoint, '')
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', join(folder, 'image'), '64M'])
    layer = createBlockLayer({ host, drivers: allDrivers })
    const node = await layer.open(join(folder, 'image'), { driver: 'qcow2' }, { write: true, unmap: true })
    mounted = await FuseExport.create(layer, node, { mountpoint, writable: true, growable: true })
    await layer.unref(node)
  })

  afterAll(async () => {
    await mounted.close()
    await layer.closeAll()
    fs.rmSync(folder, { recursive: true, force: true })
  })

  test('a file system is made and checked in it', async () => {
    await run('mke2fs', ['-q', '-F', '-t', 'ext4', mountpoint])
    await run('e2fsck', ['-fn', mountpoint])
  })

  test('fio writes at random and verifies', async () => {
    await run('fio', [
      ...[
        '--name=j',
        `--filename=${mountpoint}`,
        '--rw=randwrite',
        '--bs=4k-64k',
        '--size=16m',
        '--ioengine=psync',
      ],
      ...[
        '--verify=crc32c',
        '--do_verify=1',
        '--verify_fatal=1',
        '--fsync=64',
        '--offset=32m',
        '--verify_state_save=0',
      ],
    ])
  })

  test('a program that opens it to write anew leaves the size and the rest alone', async () => {
    const source = join(folder, 'source')
    fs.writeFileSync(source, Buffer.alloc(3 << 20, 0xa5))
    await run('cp', [source, mountpoint])
    await run('dd', ['if=/dev/zero', `of=${mountpoint}`, 'bs=1M', 'count=1', 'status=none'])
    expect((await run('stat', ['-c', '%s', mountpoint])).stdout).toBe('67108864\n')
    const bytes = await fs.promises.open(mountpoint)
    const found = Buffer.alloc(2)
    await bytes.read(found, 0, 2, (1 << 20) - 1)
    await bytes.close()
    expect([...found]).toEqual([0, 0xa5])
  })

  test('truncate, holes, data behind the end, size', async () => {
    await run('truncate', ['-s', '80M', mountpoint])
    expect((await run('stat', ['-c', '%s %F', mountpoint])).stdout).toBe('83886080 regular file\n')
    await run('fallocate', ['-p', '-o', '40M', '-l', '1M', mountpoint])
    await run('dd', [
      'if=/dev/zero',
      `of=${mountpoint}`,
      'bs=1',
      'seek=90M',
      'count=3',
      'conv=notrunc',
      'status=none',
    ])
    expect((await run('stat', ['-c', '%s', mountpoint])).stdout).toBe(`${90 * 2 ** 20 + 512}\n`)
  })

  test('what was written is in the image', async () => {
    const copy = join(folder, 'copy')
    await run('cp', ['--sparse=always', mountpoint, copy])
    await mounted.close()
    await layer.closeAll()
    expect((await run('qemu-img', ['check', join(folder, 'image')])).stdout).toContain('No errors were found')
    expect((await run('qemu-img', ['compare', '-f', 'raw', copy, join(folder, 'image')])).stdout).toBe(
      'Images are identical.\n',
    )
    expect(fs.statSync(mountpoint).size).toBe(0)
  })
})
