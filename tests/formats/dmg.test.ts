import { sampleDisk } from './built/disk.js'
import { buildDmg } from './built/dmg.js'
import { formatConformance } from './conformance.js'
import { imagePath } from './format-under-test.js'

const disk = sampleDisk(400 * 512)
const image = buildDmg(disk, { kinds: ['zlib', 'raw'], lists: 2 })
const resources = buildDmg(disk, {
  layout: 'resources',
  lists: 3,
  chunkBytes: 4096,
  dataForkOffset: 1000,
  odd: 100,
})

formatConformance({
  format: 'dmg',
  writable: false,
  build: (host) => host.put(imagePath, image),
  built: disk,
  metadata: [
    [0, 4096],
    [image.length - 512, image.length],
  ],
})

formatConformance({
  format: 'dmg',
  title: 'dmg with a resource fork',
  writable: false,
  build: (host) => host.put(imagePath, resources),
  built: disk,
  metadata: [
    [resources.length - 512, resources.length],
    [resources.length - 3400, resources.length - 512],
  ],
})

formatConformance({
  format: 'dmg',
  title: 'dmg with its lists in no order',
  writable: false,
  build: (host) => host.put(imagePath, buildDmg(disk, { lists: 5, reversed: true })),
  built: disk,
  metadata: [[0, 1]],
})
