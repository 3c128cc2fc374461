import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test, vi } from 'vitest'
import { createNodeHost } from './host.js'

vi.mock('./libc.js', () => ({ libc: () => undefined }))

test('without the native binding everything works that Node can do', async () => {
  const folder = fs.mkdtempSync(join(tmpdir(), 'blockgraph-plain-'))
  try {
    const { files, pageSize } = createNodeHost()
    expect(pageSize).toBe(4096)
    const open = { write: true, create: true, direct: true }
    const file = await files.open(join(folder, 'a'), open)
    const other = await files.open(join(folder, 'b'), open)
    // Addresses are unknown, so the page cache is used.
    expect(file.alignment).toEqual({ request: 1, memory: 1 })
    await file.write(1, 5, new Uint8Array([1, 2, 3, 4, 5]), 0)
    const buffer = new Uint8Array(8).fill(9)
    await file.read(0, 8, buffer, 0)
    expect(buffer.join()).toBe('0,1,2,3,4,5,0,0')
    expect(file.size()).toBe(6)
    expect(file.seekData(0)).toBeUndefined()
    expect(file.seekHole(0)).toBeUndefined()
    expect(file.allocate(0, 4096)).toBe(false)
    expect(file.punchHole(0, 4096)).toBe(false)
    expect(file.zeroRange(0, 4096)).toBe(false)
    expect(file.discardDevice(0, 4096)).toBe(false)
    expect(file.copyTo(0, other, 0, 6)).toBeUndefined()
    expect(file.canLock).toBe(false)
    expect(file.setLock(0, 1, 'exclusive')).toBe(true)
    expect(file.lockConflicts(0, 1, 'exclusive')).toBe(false)
    file.dropCache(0, 4096)
    file.setNoCopyOnWrite?.()
    expect(file.setExtentSizeHint?.(1 << 20)).toBe(false)
    await file.close()
    await other.close()
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
})
