import { blockError } from '../../../errors/index.js'
import {
  existingName,
  lastPart,
  nameOfPath,
  pathOfName,
  type RecordedPath,
} from '../../../formatkit/index.js'
import { type BlockLayer, type BlockNode, type OpenContext, skipFilters } from '../../../graph/index.js'
import { OptionDict } from '../../../options/index.js'
import type { VhdxImage } from './image.js'
import { bracedGuid, LocatorKey } from './parent-locator.js'

/** The parent of a differencing disk: its name in the image, and who it has to be. */

/**
 * Name of the parent as a file of this platform: the relative path, that by volume (on Windows), the
 * absolute one, or that file beside the image, whichever is a file, else the first. Undefined if none is recorded.
 */
export function parentNameOf(context: OpenContext, pairs: ReadonlyMap<string, string>): string | undefined {
  const style = context.host.pathStyle
  const keys = [LocatorKey.relative, ...(style === 'win32' ? [LocatorKey.volume] : []), LocatorKey.absolute]
  const paths = keys.map((key) => pairs.get(key) ?? '').filter((path) => path !== '')
  const absolute = pairs.get(LocatorKey.absolute) ?? ''
  if (absolute !== '') {
    paths.push(lastPart(absolute))
  }
  return existingName(
    context,
    paths.map((path) => nameOfPath(path, style)),
  )
}

function vhdxStateOf(node: BlockNode): VhdxImage {
  const below = skipFilters(node) ?? node
  if (below.driver?.name !== 'vhdx' || below.state === undefined) {
    throw blockError('EINVAL', `Invalid backing file format: ${below.driver?.name ?? ''}. Must be vhdx`)
  }
  return below.state as VhdxImage
}

/** Refuses a node that is not the disk from which this one was made, or has been written to since. */
export function checkParent(pairs: ReadonlyMap<string, string>, node: BlockNode): void {
  const wanted = [LocatorKey.linkage, LocatorKey.nextLinkage].map((key) => pairs.get(key)?.toLowerCase())
  const id = bracedGuid(vhdxStateOf(node).dataWriteGuid)
  if (!wanted.includes(id)) {
    throw blockError(
      'EINVAL',
      `Parent has another identifier (${id}) than the one recorded (${wanted[0] ?? 'none'}): ` +
        'it is another disk or was written to',
    )
  }
}

/** What a differencing disk records of its parent. */
export interface ParentRecord extends RecordedPath {
  readonly dataWriteGuid: Uint8Array
  readonly sectorBytes: number
}

/**
 * Opens the disk that is to be recorded as `backing` to learn who it is.
 *
 * @param filename its full name
 * @throws BlockError EINVAL if it is no VHDX, ENOTSUP if its name is no path
 */
export async function readParent(
  layer: BlockLayer,
  filename: string,
  backing: string,
  format: string | undefined,
): Promise<ParentRecord> {
  if (format !== undefined && format !== 'vhdx') {
    throw blockError('EINVAL', 'backing_file must be a vhdx image')
  }
  const recorded = pathOfName(backing, layer.host.pathStyle)
  if (recorded === undefined) {
    throw blockError('ENOTSUP', `The parent of a VHDX has to be a plain file, not '${backing}'`)
  }
  const options = new OptionDict([
    ['driver', 'vhdx'],
    ['force-share', true],
  ])
  const node = await layer.open(filename, options, { noBacking: true })
  try {
    const { dataWriteGuid, sectorBytes } = vhdxStateOf(node)
    return { ...recorded, dataWriteGuid: Uint8Array.from(dataWriteGuid), sectorBytes }
  } finally {
    await layer.unref(node)
  }
}

/** The pairs of the locator that names this parent. */
export function locatorOf({ dataWriteGuid, relative, path }: ParentRecord): Map<string, string> {
  return new Map([
    [LocatorKey.linkage, bracedGuid(dataWriteGuid)],
    [relative ? LocatorKey.relative : LocatorKey.absolute, path],
  ])
}
