import { alignUp } from '../../../bytes/index.js'
import { blockError } from '../../../errors/index.js'
import {
  type BlockNode,
  type CreateContext,
  fullBackingFilename,
  truncateNode,
} from '../../../graph/index.js'
import type { OptionsOf } from '../../../options/index.js'
import { defaultBlockBytes, makeDynamicHeader } from './dynamic-header.js'
import { DiskType, footerBytes, makeFooter, timestampBase } from './footer.js'
import { maxSectors, roundedSize, sectorBytes } from './geometry.js'
import type { vpcCreateOptions } from './options.js'
import { readParent, recordParent } from './parent.js'

/** Where the parts of a new dynamic disk stand: footer copy, header, table. Bytes. */
const headerOffset = 512
const tableOffset = 1536

/**
 * Creates a disk with the layout QEMU gives it.
 *
 * @throws BlockError with QEMU's text
 */
export async function create(context: CreateContext): Promise<void> {
  const {
    size,
    subformat,
    force_size,
    backing_file: backing,
    backing_fmt: format,
  } = withPreset(context.options)
  if (subformat !== 'dynamic' && subformat !== 'fixed') {
    throw blockError('EINVAL', `Parameter 'subformat' does not accept value '${subformat}'`)
  }
  if (backing !== undefined && subformat === 'fixed') {
    throw blockError('ENOTSUP', "Fixed image can't have backing file")
  }
  const parent =
    backing === undefined
      ? undefined
      : await readParent(
          context.layer,
          fullBackingFilename(context.filename, backing, context.host.pathStyle),
          backing,
          format,
        )
  // A disk is as long as its parent, whatever a geometry can say.
  const exact = force_size || (parent !== undefined && isOddSize(parent.length) && size === parent.length)
  const { geometry, total } = roundedSize(size, exact)
  if (context.exact === true && total * sectorBytes !== size) {
    throw blockError('EINVAL', 'The requested image size cannot be represented in CHS geometry')
  }
  if (total > maxSectors) {
    throw blockError('EFBIG', 'Disk size is too large, max size is 2040 GiB')
  }
  const dynamic = subformat === 'dynamic'
  const bytes = total * sectorBytes
  const footer = makeFooter({
    type: parent !== undefined ? DiskType.differencing : dynamic ? DiskType.dynamic : DiskType.fixed,
    size: bytes,
    geometry,
    creator: exact ? 'qem2' : 'qemu',
    uuid: newUuid(context),
    timestamp: Math.floor(Date.now() / 1000) - timestampBase,
    dataOffset: dynamic ? headerOffset : undefined,
  })
  const file = await context.createFile(0)
  if (!dynamic) {
    await truncateNode(file, bytes + footerBytes, { exact: false, preallocation: 'off', zero: false })
    await write(file, bytes, footer.bytes)
    return
  }
  const entries = Math.ceil(bytes / defaultBlockBytes)
  const tableBytes = Math.ceil((entries * 4) / sectorBytes) * sectorBytes
  await write(file, 0, footer.bytes)
  const header = makeDynamicHeader(tableOffset, entries, defaultBlockBytes)
  let end = tableOffset + tableBytes
  if (parent !== undefined) {
    const locator = recordParent(header, parent, end)
    await write(file, end, locator)
    end += locator.length
  }
  await write(file, end, footer.bytes)
  await write(file, tableOffset, new Uint8Array(tableBytes).fill(0xff))
  await write(file, headerOffset, header.bytes)
}

/** The options with their defaults, and what a preset asks for. */
function withPreset(given: OptionsOf<typeof vpcCreateOptions>) {
  const { size = 0, subformat, force_size, preset } = given
  if (preset === undefined) {
    return { ...given, size, subformat: subformat ?? 'dynamic', force_size: force_size ?? false }
  }
  if (preset !== 'azure') {
    throw blockError('EINVAL', `Parameter 'preset' does not accept value '${preset}'`)
  }
  if ((subformat ?? 'fixed') !== 'fixed' || force_size === false) {
    throw blockError('EINVAL', "Preset 'azure' needs subformat=fixed and force_size=on")
  }
  return { ...given, size: alignUp(size, 1 << 20), subformat: 'fixed', force_size: true }
}

/** Whether no geometry says exactly `bytes`. */
function isOddSize(bytes: number): boolean {
  return roundedSize(bytes, false).total * sectorBytes !== bytes
}

/** A random identifier (version 4). */
function newUuid({ host }: CreateContext): Uint8Array {
  const uuid = Uint8Array.from(host.randomBytes(16))
  uuid[6] = ((uuid[6] ?? 0) & 0x0f) | 0x40
  uuid[8] = ((uuid[8] ?? 0) & 0x3f) | 0x80
  return uuid
}

async function write(file: BlockNode, offset: number, bytes: Uint8Array): Promise<void> {
  const wait = file.write(offset, bytes.length, bytes, 0, 0)
  if (wait !== undefined) {
    await wait
  }
}
