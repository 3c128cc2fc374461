import { expect, test } from 'vitest'
import { convertImage, convertToSink } from '../../src/image/index.js'
import { layerOn, memoryHost } from './format-under-test.js'

const bytes = 5 << 20

test.each([
  ['vpc', 'force_size=on'],
  ['vpc', 'force_size=on,subformat=fixed'],
  ['vhdx', 'block_size=1M'],
  ['vhdx', 'subformat=fixed,block_state_zero=off'],
  ['vmdk', 'subformat=streamOptimized'],
  ['vmdk', ''],
  ['qed', 'cluster_size=8k'],
  ['vdi', ''],
  ['parallels', ''],
  ['qcow', ''],
])('%s (%s) is written to a stream that only goes forward', async (format, options) => {
  const host = memoryHost()
  const layer = layerOn(host)
  const source = new Uint8Array(bytes).map((_, at) => ((at >> 20) % 2 === 0 ? 0 : 1 + (at % 251)))
  host.put('/source', source)
  const chunks: Uint8Array[] = []
  const sink = {
    write: (chunk: Uint8Array) => {
      chunks.push(chunk.slice())
      return undefined
    },
  }
  await convertToSink(layer, sink, { sources: [{ filename: '/source', format: 'raw' }], format, options })
  host.put('/image', Buffer.concat(chunks))
  await convertImage(layer, {
    sources: [{ filename: '/image', format }],
    target: '/back',
    format: 'raw',
  })
  expect(Buffer.compare(host.contents('/back')?.bytes() ?? Buffer.alloc(0), source)).toBe(0)
  await layer.closeAll()
})
