import {
  type BuiltVmdk,
  buildCowd,
  buildSeSparse,
  buildStreamInFront,
  buildStreamWithFooter,
} from './built/vmdk.js'
import { formatConformance } from './conformance.js'
import { type FormatUnderTest, imagePath } from './format-under-test.js'

const metadata = [
  [0, 80],
  [512, 900],
  [10752, 13824],
] as const

formatConformance({ format: 'vmdk', size: 3 << 20, grownSize: 100 << 20, checks: true, metadata })

formatConformance({
  format: 'vmdk',
  title: 'vmdk with zeroed grains',
  create: { zeroed_grain: true },
  size: (1 << 20) + 512,
  grownSize: (40 << 20) + 1024,
  checks: true,
  metadata,
})

formatConformance({
  format: 'vmdk',
  title: 'flat vmdk',
  create: { subformat: 'monolithicFlat' },
  size: 1 << 20,
  grownSize: 3 << 20,
  checks: true,
  manyFiles: true,
  metadata: [[0, 352]],
})

formatConformance({
  format: 'vmdk',
  title: 'split sparse vmdk',
  create: { subformat: 'twoGbMaxExtentSparse' },
  size: 1 << 20,
  grownSize: 50 << 20,
  checks: true,
  manyFiles: true,
  metadata: [[0, 352]],
})

formatConformance({
  format: 'vmdk',
  title: 'split flat vmdk',
  create: { subformat: 'twoGbMaxExtentFlat' },
  size: 1 << 20,
  grownSize: 3 << 20,
  checks: true,
  manyFiles: true,
  metadata: [[0, 352]],
})

/** The first file is the one that is opened. */
function built(title: string, { files, disk }: BuiltVmdk, more: Partial<FormatUnderTest>): void {
  formatConformance({
    format: 'vmdk',
    title,
    writable: false,
    checks: true,
    build: (host) => {
      for (const [index, [name, bytes]] of [...files].entries()) {
        host.put(index === 0 ? imagePath : `/${name}`, bytes)
      }
    },
    built: disk,
    ...more,
  })
}

built('stream-optimized vmdk', buildStreamInFront(), {
  metadata: [
    [0, 80],
    [512, 900],
    [26 * 512, 27 * 512 + 80],
    [65536, 65536 + 64],
  ],
})

const stream = buildStreamWithFooter()
const end = stream.files.get('stream.vmdk')?.length ?? 0

built('stream-optimized vmdk with a footer', stream, {
  metadata: [
    [0, 80],
    [65536, 65536 + 64],
    [end - 9 * 512, end],
  ],
})

built('COWD vmdk', buildCowd(), {
  damaged: '/cowd-delta.vmdk',
  metadata: [
    [0, 32],
    [4 * 512, 4 * 512 + 16],
    [8 * 512, 8 * 512 + 96],
  ],
})

built('seSparse vmdk', buildSeSparse(), {
  damaged: '/se-sesparse.vmdk',
  metadata: [
    [0, 512],
    [512, 1024],
    [8 * 512, 8 * 512 + 32],
    [80 * 512, 80 * 512 + 96],
  ],
})
