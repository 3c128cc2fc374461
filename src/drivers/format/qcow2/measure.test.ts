import { describe, expect, test } from 'vitest'
import { createBlockLayer } from '../../../graph/index.js'
import { MemoryHost } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { raw } from '../raw/index.js'
import { fullyAllocatedBytes, measure } from './measure.js'

const G = 2 ** 30

async function measured(options: Record<string, string | number | boolean>, source?: Uint8Array) {
  const host = new MemoryHost()
  const layer = createBlockLayer({ host, drivers: [raw, file] })
  if (source === undefined) {
    return await measure({ layer, options })
  }
  host.put('/src', new Uint8Array(0)).truncate(source.length)
  // Page by page, so that zero pages stay holes.
  for (let at = 0; at < source.length; at += 65536) {
    const page = source.subarray(at, at + 65536)
    if (page.some((byte) => byte !== 0)) {
      host.contents('/src')?.write(at, page)
    }
  }
  const node = await layer.open('/src', { driver: 'raw' })
  const result = await measure({ layer, options, source: node })
  await layer.unref(node)
  return result
}

describe('numbers of qemu-img measure', () => {
  test.each<[Record<string, string | number | boolean>, number, number]>([
    [{ size: 0 }, 196608, 196608],
    [{ size: G }, 393216, 1074135040],
    [{ size: G, compat: '0.10' }, 393216, 1074135040],
    [{ size: G, preallocation: 'full' }, 1074135040, 1074135040],
    [{ size: G, preallocation: 'falloc' }, 1074135040, 1074135040],
    [{ size: G, preallocation: 'metadata' }, 393216, 1074135040],
    [{ size: G, extended_l2: true }, 524288, 1074266112],
  ])('%o', async (options, required, fullyAllocated) => {
    expect(await measured(options)).toEqual({ required, fullyAllocated })
  })

  test('refcount metadata counts itself', () => {
    // Header, L2 and L1 table and 59 data clusters fit one block of 64 counts with table and block.
    expect(fullyAllocatedBytes(59 * 512, 512, 6, 8)).toBe(64 * 512)
    expect(fullyAllocatedBytes(60 * 512, 512, 6, 8)).toBe(66 * 512)
  })

  test('data of a source counts in whole clusters', async () => {
    const source = new Uint8Array(1 << 20)
    source[65536 * 3] = 1
    source[65536 * 4 + 5] = 1
    source[65536 * 9] = 1
    const empty = await measured({}, new Uint8Array(1 << 20))
    expect((await measured({}, source)).required - empty.required).toBe(3 * 65536)
    // Extents that share a cluster of the target count once: what is added is L1 table, L2 table and data.
    const wide = { cluster_size: 2 << 20 }
    expect((await measured(wide, source)).required).toBe((await measured(wide)).required + 3 * (2 << 20))
    expect((await measured({ backing_file: 'x' }, source)).required).toBe(empty.fullyAllocated)
  })
})

test.each([
  [{ size: 1, cluster_size: 3 }, 'Cluster size must be a power of two between 512 and 2048k'],
  [{ size: 1, compat: 'v3' }, "Invalid compatibility level: 'v3'"],
  [{ size: 1, preallocation: 'x' }, 'invalid parameter value: x'],
  [
    { size: 1, refcount_bits: 8, compat: '0.10' },
    'Different refcount widths than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)',
  ],
  [{ size: 2 ** 52 }, 'The image size is too large (try using a larger cluster size)'],
])('%o is refused', async (options, message) => {
  await expect(measured(options)).rejects.toThrow(message)
})
