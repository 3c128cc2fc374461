import { afterAll, beforeAll, expect, test } from 'vitest'
import { debugEventNames } from '../../../src/io/index.js'
import { DebugShop } from './qemu.js'

let made: DebugShop | undefined

function shop(): DebugShop {
  if (made === undefined) {
    throw new Error('no images')
  }
  return made
}

beforeAll(() => {
  made = new DebugShop((qemu) => {
    qemu('qemu-img create -f raw src.raw 4M')
    qemu("qemu-io -f raw -c 'write -P 1 0 1M' -c 'write -P 2 3M 64k' -c 'write -P 3 3200k 4k' src.raw")
    qemu('qemu-img convert -O qcow2 src.raw full.qcow2')
    qemu('qemu-img convert -c -O qcow2 src.raw comp.qcow2')
    qemu('qemu-img create -f qcow2 empty.qcow2 4M')
    qemu('qemu-img create -f qcow2 -o cluster_size=2k,refcount_bits=64 small.qcow2 4M')
    qemu('qemu-img create -f qcow2 base.qcow2 4M')
    qemu("qemu-io -f qcow2 -c 'write -P 5 0 2M' base.qcow2")
    qemu('qemu-img create -f qcow2 -b base.qcow2 -F qcow2 over.qcow2')
    qemu("qemu-io -f qcow2 -c 'write -P 6 64k 4k' over.qcow2")
    qemu('qemu-img create -f qcow2 big.qcow2 2G')
    qemu("qemu-io -f qcow2 -c 'write -P 5 0 1M' -c 'write -P 6 1500M 1M' big.qcow2")
    qemu('qemu-img create -f qcow2 snap.qcow2 4M')
    qemu("qemu-io -f qcow2 -c 'write -P 5 0 2M' snap.qcow2")
    qemu('qemu-img snapshot -c s snap.qcow2')
  })
})

afterAll(() => {
  made?.remove()
})

/** What is done while an error waits at an event; `%` stands for the image with blkdebug below it. */
const scenarios: Readonly<Record<string, readonly [image: string, command: string]>> = {
  write: ['empty.qcow2', 'convert -n -f raw --target-image-opts src.raw %'],
  compress: ['empty.qcow2', 'convert -n -c -f raw --target-image-opts src.raw %'],
  'write small clusters': ['small.qcow2', 'convert -n -f raw --target-image-opts src.raw %'],
  'write over a snapshot': ['snap.qcow2', 'convert -n -f raw --target-image-opts src.raw %'],
  read: ['full.qcow2', 'convert -O raw --image-opts % out.raw'],
  'read compressed': ['comp.qcow2', 'convert -O raw --image-opts % out.raw'],
  'read through': ['over.qcow2', 'convert -O raw --image-opts % out.raw'],
  check: ['full.qcow2', 'check --image-opts %'],
  map: ['full.qcow2', 'map --image-opts %'],
  grow: ['full.qcow2', 'resize --image-opts % 4000G'],
  shrink: ['big.qcow2', 'resize --shrink --image-opts % 64k'],
}

/** Events that a scenario certainly meets. */
const met: Readonly<Record<string, readonly string[]>> = {
  write: ['none', 'l1_update', 'l2_alloc_write', 'write_aio', 'cluster_alloc', 'refblock_alloc', 'pwritev'],
  compress: ['write_compressed', 'cluster_alloc_bytes'],
  'write small clusters': ['refblock_alloc_hookup', 'refblock_alloc_write', 'l2_update', 'refblock_load'],
  'write over a snapshot': ['l2_alloc_cow_read', 'l2_load', 'cluster_free'],
  read: ['read_aio', 'reftable_load'],
  'read compressed': ['read_compressed', 'l2_load'],
  'read through': ['read_backing_aio'],
  check: ['none', 'reftable_load'],
  map: ['l2_load', 'none'],
  grow: ['l1_grow_alloc_table', 'l1_grow_write_table', 'l1_grow_activate_table', 'cluster_alloc'],
  shrink: ['l1_shrink_write_table', 'cluster_free'],
}

/** Where our driver does something else at this point: docs/differences.md. */
function differs(event: string, scenario: string): boolean {
  return (
    event.startsWith('flush_to_') ||
    (scenario === 'shrink' && ['l2_update', 'refblock_update_part'].includes(event)) ||
    (scenario === 'compress' && event === 'l2_update_compressed') ||
    (scenario.startsWith('write') &&
      ['cow_read', 'cow_write', 'pwritev_zero', 'cluster_alloc_space'].includes(event))
  )
}

const full = process.env.BLOCKGRAPH_FULL_MATRIX !== undefined

for (const [scenario, [image, command]] of Object.entries(scenarios)) {
  const events = full ? debugEventNames : (met[scenario] ?? [])
  for (const event of events.filter((name) => !differs(name, scenario))) {
    test(`an error at ${event}: ${scenario}`, async () => {
      const rule = `file.inject-error.0.event=${event},file.inject-error.0.errno=28,file.inject-error.0.once=on`
      const line = command.replace(
        '%',
        `driver=qcow2,file.driver=blkdebug,file.image.filename=${image},${rule}`,
      )
      const theirs = shop().theirs(line)
      const { status, stderr, stdout } = await shop().ours(line)
      expect({ status, stderr, stdout }).toEqual(theirs)
      // Otherwise the comparison would be of two programs that did not notice anything.
      expect(full || status !== 0 || stderr !== '').toBe(true)
    })
  }
}
