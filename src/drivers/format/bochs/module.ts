import { readU32LE } from '../../../bytes/index.js'
import { applyAutoReadOnly, type OpenContext } from '../../../graph/index.js'
import type { IoNode } from '../../../io/index.js'
import { headerBytes, parseHeader } from './header.js'
import { BochsState } from './state.js'

export async function open(context: OpenContext): Promise<BochsState> {
  applyAutoReadOnly(context)
  const file = context.file.node
  const header = parseHeader(await read(file, 0, headerBytes))
  const bytes = await read(file, header.catalogOffset, header.catalogEntries * 4)
  const catalog = new Uint32Array(header.catalogEntries)
  for (let i = 0; i < catalog.length; i++) {
    catalog[i] = readU32LE(bytes, i * 4)
  }
  return new BochsState(file, header, catalog)
}

/** The range of the file; what lies past its end is zero. */
async function read(file: IoNode, offset: number, bytes: number): Promise<Uint8Array> {
  const data = new Uint8Array(bytes)
  await file.read(offset, bytes, data, 0, 0)
  return data
}
