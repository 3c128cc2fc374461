import { applyAutoReadOnly, type OpenContext } from '../../../graph/index.js'
import { readBlockLists } from './block-lists.js'
import { ChunkTableBuilder } from './chunk-table.js'
import { DmgState } from './state.js'
import { readTrailer } from './trailer.js'

export async function open(context: OpenContext): Promise<DmgState> {
  applyAutoReadOnly(context)
  const { host } = context
  const file = context.file.node
  const trailer = await readTrailer(file)
  const table = new ChunkTableBuilder(trailer.dataForkOffset, (line) => host.warn(line))
  await readBlockLists(file, trailer, table)
  return new DmgState(file, host.codecs, table.build(), trailer.sectors)
}
