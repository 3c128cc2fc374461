import { uuidText } from '../../../bytes/index.js'
import { blockError } from '../../../errors/index.js'
import {
  decodeUtf16,
  encodeUtf16,
  existingName,
  lastPart,
  maxPathBytes,
  nameOfPath,
  pathOfName,
  type RecordedPath,
  readPadded,
} from '../../../formatkit/index.js'
import {
  type BlockChild,
  type BlockLayer,
  type BlockNode,
  type OpenContext,
  skipFilters,
} from '../../../graph/index.js'
import { maxLength } from '../../../io/index.js'
import { OptionDict } from '../../../options/index.js'
import type { DynamicHeader, ParentLocator } from './dynamic-header.js'
import type { Footer } from './footer.js'
import { sectorBytes } from './geometry.js'
import type { VpcImage } from './image.js'

/** The parent of a differencing disk: its name in the image, and who it has to be. */

/** Platform codes: a path relative to the disk's folder, and an absolute one. Both are UTF-16, little-endian. */
const Platform = { relative: 'W2ru', absolute: 'W2ku' } as const

/**
 * Name of the parent as a file of this platform: the relative one if there is such a file, else the
 * absolute one if there is, else whatever is recorded. Undefined if nothing is.
 */
export async function parentNameOf(context: OpenContext, header: DynamicHeader): Promise<string | undefined> {
  const { host, file } = context
  const style = host.pathStyle
  const names: string[] = []
  for (const wanted of [Platform.relative, Platform.absolute]) {
    for (const locator of header.locators) {
      const path = locator.platform === wanted ? await readPath(file, locator) : ''
      if (path !== '') {
        names.push(nameOfPath(path, style))
      }
    }
  }
  if (header.parentName !== '') {
    names.push(nameOfPath(header.parentName, style))
  }
  return existingName(context, names)
}

/** The path a locator refers to; empty if it is nowhere. */
async function readPath(file: BlockChild, { offset, length }: ParentLocator): Promise<string> {
  if (length > maxPathBytes || offset > maxLength - length || offset + length > file.node.length) {
    return ''
  }
  const bytes = new Uint8Array(length)
  await readPadded(file.node, offset, bytes)
  return decodeUtf16(bytes)
}

function vpcStateOf(node: BlockNode): VpcImage {
  const below = skipFilters(node) ?? node
  if (below.driver?.name !== 'vpc' || below.state === undefined) {
    throw blockError('EINVAL', `Invalid backing file format: ${below.driver?.name ?? ''}. Must be vpc`)
  }
  return below.state as VpcImage
}

/** Refuses a node that is not the disk from which this one was made. */
export function checkParent(header: DynamicHeader, node: BlockNode): void {
  const parent = vpcStateOf(node)
  if (!sameBytes(parent.footer.uuid, header.parentUuid)) {
    throw blockError(
      'EINVAL',
      `Parent has another identifier (${uuidText(parent.footer.uuid)}) than the one recorded ` +
        `(${uuidText(header.parentUuid)})`,
    )
  }
  if (header.parentTimestamp !== 0 && parent.footer.timestamp > header.parentTimestamp) {
    node.host.warn(`warning: '${node.filename}' was created after the disk that has it as its parent`)
  }
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.every((byte, i) => byte === b[i])
}

/** What a differencing disk records of its parent. */
export interface ParentRecord extends RecordedPath {
  readonly uuid: Uint8Array
  /** Seconds since 2000. */
  readonly timestamp: number
  readonly footer: Footer
  /** Bytes. */
  readonly length: number
}

/**
 * Opens the disk that is to be recorded as `backing` to learn who it is.
 *
 * @param filename its full name
 * @throws BlockError EINVAL if it is no VHD, ENOTSUP if its name is no path
 */
export async function readParent(
  layer: BlockLayer,
  filename: string,
  backing: string,
  format: string | undefined,
): Promise<ParentRecord> {
  if (format !== undefined && format !== 'vpc') {
    throw blockError('EINVAL', 'backing_file must be a vpc image')
  }
  const style = layer.host.pathStyle
  const recorded = pathOfName(backing, style)
  if (recorded === undefined) {
    throw blockError('ENOTSUP', `The parent of a VHD has to be a plain file, not '${backing}'`)
  }
  const options = new OptionDict([
    ['driver', 'vpc'],
    ['force-share', true],
  ])
  const node = await layer.open(filename, options, { noBacking: true })
  try {
    const { footer } = vpcStateOf(node)
    const { uuid, timestamp } = footer
    return { ...recorded, uuid: Uint8Array.from(uuid), timestamp, footer: footer.copy(), length: node.length }
  } finally {
    await layer.unref(node)
  }
}

/**
 * Enters the parent in the header, which is sealed, and returns what has to stand at `offset` of the file:
 * whole sectors with the path.
 */
export function recordParent(header: DynamicHeader, parent: ParentRecord, offset: number): Uint8Array {
  const path = encodeUtf16(parent.path)
  const sectors = new Uint8Array(Math.max(1, Math.ceil(path.length / sectorBytes)) * sectorBytes)
  sectors.set(path)
  header.setParent(parent.uuid, parent.timestamp, lastPart(parent.path))
  header.clearLocators()
  header.setLocator(
    0,
    parent.relative ? Platform.relative : Platform.absolute,
    sectors.length,
    path.length,
    offset,
  )
  header.seal()
  return sectors
}
