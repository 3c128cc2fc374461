import { absoluteFilename, type BlockChild, type BlockNode, truncateNode } from '../../../graph/index.js'
import type { DifferencingPath } from './differencing-path.js'
import { DynamicHeader, dynamicHeaderBytes } from './dynamic-header.js'
import { DiskType, type Footer, footerBytes } from './footer.js'
import type { VpcBlocks } from './image.js'
import { readParent, recordParent } from './parent.js'
import { metadataEnd } from './space.js'

/** Changes of what a differencing disk is to its parent. The path's mutex is held, nothing is in flight. */
export interface ChangeContext {
  readonly node: BlockNode
  readonly file: BlockChild
  readonly blocks: VpcBlocks
  readonly path: DifferencingPath
}

/**
 * Records another parent, which has to be a VHD that opens. Header and locator are written anew at the
 * end of the file; the footer copy at the start, one sector, points to them when they are durable.
 *
 * @throws BlockError EINVAL if it is no VHD, ENOTSUP if its name is no path
 */
export async function changeParent(
  context: ChangeContext,
  backing: string,
  format: string | undefined,
): Promise<Footer> {
  const { node, file, blocks } = context
  const { header, space } = blocks
  const parent = await readParent(node.layer, absoluteFilename(node, backing) ?? '', backing, format)
  const next = new DynamicHeader(Uint8Array.from(header.bytes))
  const path = recordParent(next, parent, 0)
  const offset = space.reserve(dynamicHeaderBytes + path.length)
  recordParent(next, parent, offset + dynamicHeaderBytes)
  const footer = space.footer.copy()
  footer.dataOffset = offset
  await file.node.write(offset, dynamicHeaderBytes, next.bytes, 0, 0)
  await file.node.write(offset + dynamicHeaderBytes, path.length, path, 0, 0)
  await replaceFooter(context, footer.seal())
  header.bytes.set(next.bytes)
  return footer
}

/**
 * Makes a differencing disk a dynamic one, which has no parent: sectors that are not its own read as
 * zeroes from now on. They are zeroes in the file before the bitmaps and then the footers say so.
 */
export async function dropParent(context: ChangeContext): Promise<Footer> {
  const { blocks, path } = context
  await path.fillBlocks()
  const footer = blocks.space.footer.copy()
  footer.type = DiskType.dynamic
  await replaceFooter(context, footer.seal())
  return footer
}

/** The footer at the end first: until the copy at the start is another one, that one counts. */
async function replaceFooter({ file, blocks: { space } }: ChangeContext, footer: Footer): Promise<void> {
  const before = space.footer
  space.footer = footer
  space.footerChanged()
  try {
    await space.writeFooter()
    await file.node.flush()
    await file.node.write(0, footerBytes, footer.bytes, 0, 0)
    await file.node.flush()
  } catch (error) {
    space.footer = before
    space.footerChanged()
    throw error
  }
}

/** Forgets everything the disk holds itself. The table is durable before the file is cut. */
export async function emptyDisk({ file, blocks, path }: ChangeContext): Promise<void> {
  const { table, space, header } = blocks
  await path.writeBack()
  const empty = new Uint8Array(table.bytes.length).fill(0xff)
  await file.node.write(table.offset, empty.length, empty, 0, 0)
  await file.node.flush()
  table.replace(table.offset, empty)
  path.forget()
  space.cut(metadataEnd(file, space.footer, header, table))
  await space.writeFooter()
  await truncateNode(file.node, space.end + footerBytes, { exact: false, preallocation: 'off', zero: false })
}
