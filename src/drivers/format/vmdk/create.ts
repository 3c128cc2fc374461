import { writeU32LE } from '../../../bytes/index.js'
import { blockError } from '../../../errors/index.js'
import {
  type BlockNode,
  type CreateContext,
  fullBackingFilename,
  truncateNode,
} from '../../../graph/index.js'
import type { Host } from '../../../host/index.js'
import { OptionDict, type OptionsOf } from '../../../options/index.js'
import { makeDescriptor } from './descriptor.js'
import { VmdkImage } from './image.js'
import type { vmdkCreateOptions } from './options.js'
import { Flag, newLayout, sectorBytes, sparseHeaderBytes, splitBytes } from './sparse-header.js'

const subformats = [
  'monolithicSparse',
  'monolithicFlat',
  'twoGbMaxExtentSparse',
  'twoGbMaxExtentFlat',
  'streamOptimized',
]
const adapters = ['ide', 'buslogic', 'lsilogic', 'legacyESX']

export type Options = OptionsOf<typeof vmdkCreateOptions>

interface Shape {
  readonly subformat: string
  readonly flat: boolean
  readonly split: boolean
  readonly compressed: boolean
  readonly zeroGrains: boolean
}

/**
 * Creates an image with the layout QEMU gives it; extents in files of their own stand beside the descriptor.
 *
 * @throws BlockError with QEMU's text
 */
export async function create(context: CreateContext): Promise<void> {
  const options: Options = context.options
  const { size: asked = 0, backing_file: backing, adapter_type: adapter = 'ide' } = options
  if (options.backing_fmt !== undefined && options.backing_fmt !== 'vmdk') {
    throw blockError('EINVAL', 'backing_file must be a vmdk image')
  }
  const size = Math.ceil(asked / sectorBytes) * sectorBytes
  const shape = shapeOf(options)
  checkAdapter(adapter)
  const hardware = hardwareVersion(options)
  if (shape.flat && backing !== undefined) {
    throw blockError('ENOTSUP', "Flat image can't have backing file")
  }
  if (shape.flat && shape.zeroGrains) {
    throw blockError('ENOTSUP', "Flat image can't enable zeroed grain")
  }
  const parentCid = backing === undefined ? 0xffffffff : await parentId(context, backing)
  await build(context, size, shape, (extents) =>
    describe(context.host, options, { size, adapter, hardware, parentCid, extents }),
  )
}

interface Described {
  /** Bytes. */
  readonly size: number
  readonly adapter: string
  readonly hardware: string
  readonly parentCid: number
  readonly extents: string
}

function describe(host: Host, options: Options, disk: Described): string {
  const heads = disk.adapter === 'ide' ? 16 : 255
  return makeDescriptor({
    cid: new DataView(Uint8Array.from(host.randomBytes(4)).buffer).getUint32(0),
    parentCid: disk.parentCid,
    createType: shapeOf(options).subformat,
    parent: options.backing_file,
    extents: disk.extents,
    hardwareVersion: disk.hardware,
    cylinders: Math.floor(disk.size / (63 * heads * sectorBytes)),
    heads,
    adapter: disk.adapter,
    toolsVersion: options.toolsversion ?? '2147483647',
  })
}

/**
 * The descriptor of a stream-optimized image without a parent.
 *
 * @throws BlockError with QEMU's text
 */
export function describeStream(host: Host, options: Options, size: number, name: string): string {
  const { adapter_type: adapter = 'ide' } = options
  checkAdapter(adapter)
  const extents = `RW ${size / sectorBytes} SPARSE "${name}"\n`
  return describe(host, options, {
    size,
    adapter,
    hardware: hardwareVersion(options),
    parentCid: 0xffffffff,
    extents,
  })
}

function checkAdapter(adapter: string): void {
  if (!adapters.includes(adapter)) {
    throw blockError('EINVAL', `invalid parameter value: ${adapter}`)
  }
}

function shapeOf({ subformat = 'monolithicSparse', zeroed_grain = false }: Options): Shape {
  if (!subformats.includes(subformat)) {
    throw blockError('EINVAL', `invalid parameter value: ${subformat}`)
  }
  return {
    subformat,
    flat: subformat.endsWith('Flat'),
    split: subformat.startsWith('twoGb'),
    compressed: subformat === 'streamOptimized',
    zeroGrains: zeroed_grain,
  }
}

function hardwareVersion({ compat6 = false, hwversion }: Options): string {
  const given = hwversion === undefined || hwversion === 'undefined' ? undefined : hwversion
  if (compat6 && given !== undefined) {
    throw blockError('EINVAL', 'compat6 cannot be enabled with hwversion set')
  }
  return compat6 ? '6' : (given ?? '4')
}

/** The identifier of the contents of the backing file. */
async function parentId({ layer, filename }: CreateContext, backing: string): Promise<number> {
  const path = fullBackingFilename(filename, backing, layer.host.pathStyle)
  const node = await layer.open(path, new OptionDict(), { noBacking: true })
  try {
    if (!(node.state instanceof VmdkImage)) {
      const format = node.driver?.name ?? ''
      throw blockError('EINVAL', `Invalid backing file format: ${format}. Must be vmdk`)
    }
    return node.state.cid
  } finally {
    await layer.unref(node)
  }
}

async function build(
  context: CreateContext,
  size: number,
  shape: Shape,
  describe: (extents: string) => string,
): Promise<void> {
  const { filename } = context
  const kind = shape.flat ? 'FLAT' : 'SPARSE'
  const line = (bytes: number, path: string): string =>
    `RW ${bytes / sectorBytes} ${kind} "${baseName(path)}"${shape.flat ? ' 0' : ''}\n`
  const file = await context.createFile(0)
  if (!shape.split && !shape.flat) {
    await initSparse(file, size, shape)
    await writeText(file, sectorBytes, describe(line(size, filename)))
    return
  }
  let extents = ''
  for (let done = 0, index = 1; done < size; index++) {
    const bytes = shape.split ? Math.min(size - done, splitBytes) : size
    const path = extentName(filename, shape, index)
    const node = await context.createFurtherFile(path, 0)
    if (shape.flat) {
      await truncateNode(node, bytes, { exact: false, preallocation: 'off', zero: false })
    } else {
      await initSparse(node, bytes, shape)
    }
    extents += line(bytes, path)
    done += bytes
  }
  const text = describe(extents)
  await writeText(file, 0, text)
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}

/** `disk.vmdk` has its extents in `disk-flat.vmdk`, `disk-f001.vmdk`, `disk-s001.vmdk`. */
function extentName(filename: string, { flat, split }: Shape, index: number): string {
  const base = baseName(filename)
  const folder = filename.slice(0, filename.length - base.length)
  const dot = base.lastIndexOf('.')
  const [prefix, postfix] = dot < 0 ? [base, ''] : [base.slice(0, dot), base.slice(dot)]
  const part = split ? `${flat ? 'f' : 's'}${String(index).padStart(3, '0')}` : 'flat'
  return `${folder}${prefix}-${part}${postfix}`
}

/** Header, directories and empty tables of a new extent. */
async function initSparse(node: BlockNode, size: number, { compressed, zeroGrains }: Shape): Promise<void> {
  const capacity = size / sectorBytes
  const layout = newLayout(capacity)
  const header = sparseHeaderBytes({
    version: compressed ? 3 : zeroGrains ? 2 : 1,
    flags:
      Flag.newlines |
      Flag.redundant |
      (compressed ? Flag.compressed | Flag.marker : 0) |
      (zeroGrains ? Flag.zeroGrain : 0),
    capacity,
    grain: layout.grain,
    descriptorOffset: 1,
    descriptorSize: 20,
    tableEntries: layout.tableEntries,
    redundantOffset: layout.redundantOffset,
    directoryOffset: layout.directoryOffset,
    overhead: layout.overhead,
    compression: compressed ? 1 : 0,
  })
  const end = layout.overhead * sectorBytes
  await truncateNode(node, end, { exact: false, preallocation: 'off', zero: true })
  await write(node, 0, header)
  const tableSectors = (layout.tableEntries * 4) / sectorBytes
  for (const at of [layout.redundantOffset, layout.directoryOffset]) {
    const directory = new Uint8Array(layout.directorySectors * sectorBytes)
    for (let table = 0; table < layout.tables; table++) {
      writeU32LE(directory, table * 4, at + layout.directorySectors + table * tableSectors)
    }
    if (directory.length > 0) {
      await write(node, at * sectorBytes, directory)
    }
  }
}

async function writeText(node: BlockNode, offset: number, text: string): Promise<void> {
  await write(node, offset, new TextEncoder().encode(text))
}

async function write(node: BlockNode, offset: number, bytes: Uint8Array): Promise<void> {
  const wait = node.write(offset, bytes.length, bytes, 0, 0)
  if (wait !== undefined) {
    await wait
  }
}
