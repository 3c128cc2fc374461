import { buildBochs } from './built/bochs.js'
import { sampleDisk } from './built/disk.js'
import { formatConformance } from './conformance.js'
import { imagePath } from './format-under-test.js'

const disk = sampleDisk(300 * 512)

formatConformance({
  format: 'bochs',
  writable: false,
  build: (host) => host.put(imagePath, buildBochs(disk)),
  built: disk,
  metadata: [
    [0, 96],
    [512, 552],
    [552, 1064],
  ],
})

formatConformance({
  format: 'bochs',
  title: 'bochs of version 1 with small extents',
  writable: false,
  build: (host) => host.put(imagePath, buildBochs(disk, { version: 1, extentBytes: 512, bitmapBytes: 1 })),
  built: disk,
  metadata: [[0, 1712]],
})
