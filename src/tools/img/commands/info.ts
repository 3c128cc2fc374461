import { jsonPretty, sizeText } from '../../../bytes/index.js'
import {
  collectImageInfo,
  type DiskContents,
  type FileSystem,
  type ImageInfo,
  imageContents,
} from '../../../image/index.js'
import { treeLines } from '../../tree-lines.js'
import { imageOptions } from '../image-options.js'
import { snapshotTable } from '../snapshot-table.js'
import { flag, type ImageArguments, type ImgCommand, type ImgTool, valued } from '../tool.js'

/** `info`: describes an image, or a whole chain of them. */
export const info: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    let output: string | undefined
    let backingChain = false
    let contents = false
    let details = false
    let image: ImageArguments = {}
    const operands = await tool.readOptions(argv, {
      short: ':f:hU',
      long: [
        valued('format', 'f'),
        valued('output'),
        flag('backing-chain'),
        valued('object'),
        flag('image-opts'),
        flag('force-share', 'U'),
        ...(tool.context.extras === true ? [flag('contents'), flag('details')] : []),
      ],
      option: (parsed) => {
        image = imageOptions(image, parsed)
        if (parsed.option === 'output') {
          output = parsed.argument
        } else if (parsed.option === 'backing-chain') {
          backingChain = true
        } else if (parsed.option === 'contents') {
          contents = true
        } else if (parsed.option === 'details') {
          details = true
        }
      },
    })
    const [filename] = operands
    if (filename === undefined || operands.length !== 1) {
      tool.usage('Expecting one image file name')
    }
    const json = tool.isJson(output)
    const layer = await tool.layer()
    const spec = tool.imageSpec(filename, image)
    const chain = await collectImageInfo(layer, spec, { backingChain, details })
    if (contents) {
      showContents(tool, chain, await imageContents(layer, spec), json, backingChain)
      return 0
    }
    if (json) {
      tool.print(jsonPretty(backingChain ? chain : chain[0]))
    } else {
      tool.print(chain.map((one) => infoLines(one).join('\n')).join('\n\n'))
    }
    return 0
  },
}

/** The description of the first image goes on with what stands on it. */
function showContents(
  tool: ImgTool,
  [first, ...rest]: readonly ImageInfo[],
  contents: DiskContents,
  json: boolean,
  isChain: boolean,
): void {
  if (first === undefined) {
    return
  }
  if (json) {
    const described = { ...first, contents }
    tool.print(jsonPretty(isChain ? [described, ...rest] : described))
    return
  }
  const images = [[...infoLines(first), ...contentsLines(contents)], ...rest.map(infoLines)]
  tool.print(images.map((lines) => lines.join('\n')).join('\n\n'))
}

function fileSystemText({ type, label }: FileSystem): string {
  return label === undefined ? type : `${type} "${label}"`
}

function contentsLines(contents: DiskContents): string[] {
  const { partitions = [], 'partition-table': table, 'file-system': whole } = contents
  if (table === undefined) {
    return [`contents: ${whole === undefined ? 'unknown' : fileSystemText(whole)}`]
  }
  const rows = partitions.map((one) => [
    String(one.number),
    sizeText(one.start),
    sizeText(one.size),
    one.type,
    one['file-system'] === undefined ? '' : fileSystemText(one['file-system']),
    [one.name ?? '', one.bootable === true ? '(bootable)' : ''].join(' ').trim(),
  ])
  rows.unshift(['No', 'Start', 'Size', 'Type', 'File system', 'Name'])
  const widths = [0, 1, 2, 3, 4].map((column) => Math.max(...rows.map((row) => (row[column] ?? '').length)))
  const lines = rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd(),
  )
  return [`contents: ${table.toUpperCase()} partition table`, ...lines.map((line) => `    ${line}`)]
}

function infoLines(image: ImageInfo): string[] {
  const actual = image['actual-size']
  const lines = [
    `image: ${image.filename}`,
    `file format: ${image.format}`,
    `virtual size: ${sizeText(image['virtual-size'])} (${image['virtual-size']} bytes)`,
    `disk size: ${actual === undefined ? 'unavailable' : sizeText(actual)}`,
  ]
  if (image.encrypted === true) {
    lines.push('encrypted: yes')
  }
  if (image['cluster-size'] !== undefined) {
    lines.push(`cluster_size: ${image['cluster-size']}`)
  }
  if (image['dirty-flag'] === true) {
    lines.push('cleanly shut down: no')
  }
  lines.push(...backingLines(image))
  if (image.snapshots !== undefined) {
    lines.push('Snapshot list:', ...snapshotTable(image.snapshots))
  }
  const specific = image['format-specific']
  if (specific !== undefined) {
    lines.push('Format specific information:', ...treeLines(specific.data, 1))
  }
  const details = image['format-details']
  if (details !== undefined) {
    lines.push('Format details:', ...treeLines(details.data, 1))
  }
  return lines
}

function backingLines(image: ImageInfo): string[] {
  const backing = image['backing-filename']
  if (backing === undefined) {
    return []
  }
  const full = image['full-backing-filename']
  const path =
    full === undefined ? ' (cannot determine actual path)' : full === backing ? '' : ` (actual path: ${full})`
  const format = image['backing-filename-format']
  return [
    `backing file: ${backing}${path}`,
    ...(format === undefined ? [] : [`backing file format: ${format}`]),
  ]
}
