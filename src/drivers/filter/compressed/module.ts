import { blockError } from '../../../errors/index.js'
import { applyAutoReadOnly, type OpenContext, Role } from '../../../graph/index.js'
import { takeOptions } from '../../../options/index.js'
import { findContents } from './contents.js'
import { compressedOptions } from './options.js'
import { CompressedState } from './state.js'

export async function open(context: OpenContext): Promise<CompressedState> {
  applyAutoReadOnly(context, 'A compressed file cannot be written to')
  const given = takeOptions(context.options, compressedOptions)
  const name = given['x-file']
  const file = await context.openNamedChild('file', Role.data | Role.primary, name)
  const contents = await findContents(file.node, context.host.codecs, given.size)
  if (contents === undefined) {
    throw blockError('EINVAL', `'${file.node.filename}' is not compressed with gzip, xz, bzip2 or zstd`)
  }
  return new CompressedState(file.node, contents, given.size === undefined)
}
