import { readU32BE } from '../../../bytes/index.js'
import { ioError } from '../../../errors/index.js'
import { applyAutoReadOnly, type OpenContext } from '../../../graph/index.js'
import { OffsetTable, parseSizes, sizesOffset } from './offsets.js'
import { CloopState } from './state.js'

export async function open(context: OpenContext): Promise<CloopState> {
  applyAutoReadOnly(context)
  const file = context.file.node
  const zlib = await context.host.codecs.zlib?.()
  if (zlib === undefined) {
    throw ioError('ENOTSUP', { operation: 'load zlib' })
  }
  const sizes = new Uint8Array(8)
  await file.read(sizesOffset, sizes.length, sizes, 0, 0)
  const { blockBytes, blocks } = parseSizes(readU32BE(sizes, 0), readU32BE(sizes, 4))
  const table = new OffsetTable(file, blocks)
  await table.check()
  return new CloopState(file, zlib, table, blockBytes)
}
