import { type BlockLayer, createWithDriver } from '../graph/index.js'
import type { CreateOptions } from './create-options.js'
import { openImage } from './open.js'
import { RecordedContents } from './stream-contents.js'
import { recorderName, recordingLayer } from './stream-recorder.js'

/** Options that name other files, which a trial must not touch. */
const naming = new Set(['backing_file', 'backing_fmt', 'data_file', 'data_file_raw'])

/**
 * Whether images made with these options take compressed writes. Only an open image tells, so an
 * empty one is made in memory: an existing target must not be lost for finding out.
 */
export async function canCompress(layer: BlockLayer, values: CreateOptions): Promise<boolean> {
  const { driver } = values.target
  const own = Object.entries(values.values()).filter(([name]) => !naming.has(name))
  const origin = {
    originOf: () => undefined,
    read: async () => undefined,
  }
  const work = recordingLayer(layer, new RecordedContents(), origin)
  try {
    await createWithDriver(work, driver, recorderName, { ...Object.fromEntries(own), size: 0 })
    const image = await openImage(work, { filename: recorderName, format: driver.name }, { write: true })
    return image.node.map?.writeCompressed !== undefined
  } finally {
    await work.closeAll()
  }
}
