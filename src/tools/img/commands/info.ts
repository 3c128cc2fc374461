import { jsonPretty, sizeText } from '../../../bytes/index.js'
import { collectImageInfo, type ImageInfo } from '../../../image/index.js'
import { treeLines } from '../../tree-lines.js'
import { imageOptions } from '../image-options.js'
import { snapshotTable } from '../snapshot-table.js'
import { flag, type ImageArguments, type ImgCommand, type ImgTool, valued } from '../tool.js'

/** `info`: describes an image, or a whole chain of them. */
export const info: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    let output: string | undefined
    let backingChain = false
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
      ],
      option: (parsed) => {
        image = imageOptions(image, parsed)
        if (parsed.option === 'output') {
          output = parsed.argument
        } else if (parsed.option === 'backing-chain') {
          backingChain = true
        }
      },
    })
    const [filename] = operands
    if (filename === undefined || operands.length !== 1) {
      tool.usage('Expecting one image file name')
    }
    const json = tool.isJson(output)
    const layer = await tool.layer()
    const chain = await collectImageInfo(layer, tool.imageSpec(filename, image), { backingChain })
    if (json) {
      tool.print(jsonPretty(backingChain ? chain : chain[0]))
    } else {
      tool.print(chain.map((one) => infoLines(one).join('\n')).join('\n\n'))
    }
    return 0
  },
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
