import { absoluteFilename, type BlockChild, type BlockNode } from '../../../graph/index.js'
import type { Bat } from './bat.js'
import type { SectorBitmaps } from './bitmaps.js'
import type { DiskChanges } from './changes.js'
import type { DifferencingPath } from './differencing-path.js'
import { BlockState, Guid, mebibyte } from './layout.js'
import type { DiskParameters, Regions } from './metadata.js'
import { MetadataEdit, setHasParent } from './metadata-edit.js'
import { locatorOf, readParent } from './parent.js'
import { makeLocator } from './parent-locator.js'

/** Changes of what a differencing disk is to its parent. `changes.mutex` is held. */
export interface ChangeContext {
  readonly node: BlockNode
  readonly file: BlockChild
  readonly regions: Regions
  readonly bat: Bat
  readonly disk: DiskParameters
  readonly bitmaps: SectorBitmaps
  readonly changes: DiskChanges
  readonly path: DifferencingPath
}

/** Flags of the locator's item: it must be understood. */
const locatorFlags = 4

/** Records these pairs as the parent's, in one entry of the log. */
export async function writeLocator(
  { file, regions, changes }: ChangeContext,
  pairs: ReadonlyMap<string, string>,
): Promise<void> {
  const edit = await MetadataEdit.begin(file, regions.metadata)
  await edit.setItem(Guid.parentLocator, locatorFlags, makeLocator(pairs))
  await changes.log.write(edit.writes())
}

/**
 * Records another parent, which has to be a VHDX that opens; returns the pairs of its locator.
 *
 * @throws BlockError EINVAL if it is no VHDX, ENOTSUP if its name is no path
 */
export async function changeParent(
  context: ChangeContext,
  backing: string,
  format: string | undefined,
): Promise<Map<string, string>> {
  const { node, changes } = context
  const parent = await readParent(node.layer, absoluteFilename(node, backing) ?? '', backing, format)
  const pairs = locatorOf(parent)
  await changes.writeBack()
  await writeLocator(context, pairs)
  return pairs
}

/**
 * Makes a differencing disk one without parent: sectors that are not its own read as zeroes from now on.
 * They are zeroes in the file before the table says that blocks are whole, and the table before the
 * metadata names no parent.
 */
export async function dropParent({ file, regions, bat, disk, changes, path }: ChangeContext): Promise<void> {
  await path.fillBlocks()
  for (let entry = disk.ratio; entry < bat.entries; entry += disk.ratio + 1) {
    bat.set(entry, 0, 0)
  }
  await changes.writeBack()
  const edit = await MetadataEdit.begin(file, regions.metadata)
  await edit.removeItem(Guid.parentLocator)
  await setHasParent(edit, false)
  await changes.log.write(edit.writes())
}

/** Forgets everything the disk holds itself. The table is durable before the file is cut. */
export async function emptyDisk({ bat, bitmaps, regions, changes }: ChangeContext): Promise<void> {
  bitmaps.clear()
  for (let entry = 0; entry < bat.entries; entry++) {
    if (bat.state(entry) !== BlockState.notPresent) {
      bat.set(entry, BlockState.notPresent, 0)
    }
  }
  await changes.writeBack()
  const end = Math.max(mebibyte, ...regions.all.map(({ offset, length }) => offset + length))
  await changes.cut(Math.ceil(end / mebibyte) * mebibyte)
}
