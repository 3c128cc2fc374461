import { jsonPretty, qdictOrder } from '../../../bytes/index.js'
import type { Backend, MeasureResult } from '../../../graph/index.js'
import {
  measureErrorLine,
  measureImage,
  openImage,
  type SnapshotWanted,
  showSnapshot,
} from '../../../image/index.js'
import { imageOptions } from '../image-options.js'
import { snapshotOption } from '../snapshot-option.js'
import { flag, type ImageArguments, type ImgCommand, type ImgTool, valued } from '../tool.js'
import { warnOfOptions } from './create.js'

/** `measure`: how large an image would become. */
export const measure: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    let format = 'raw'
    let options: string | undefined
    let snapshot: SnapshotWanted | undefined
    let json = false
    let size: number | undefined
    let image: ImageArguments = {}
    const operands = await tool.readOptions(argv, {
      short: 'hf:O:o:l:U',
      long: [
        flag('image-opts'),
        valued('object'),
        valued('output'),
        valued('size'),
        flag('force-share', 'U'),
      ],
      option: (parsed) => {
        image = imageOptions(image, parsed)
        const { option, argument } = parsed
        switch (option) {
          case 'O':
            format = argument
            break
          case 'o':
            options = tool.appendOptions(options, argument)
            break
          case 'l':
            snapshot = snapshotOption(tool, argument)
            break
          case 'output':
            json = tool.isJson(argument)
            break
          case 'size':
            size = tool.size('image size', argument)
            break
        }
      },
    })
    if (operands.length > 1) {
      tool.fail('At most one filename argument is allowed.')
    }
    const [filename] = operands
    const aboutFile = image.imageOpts === true || image.format !== undefined || snapshot !== undefined
    if (filename === undefined && aboutFile) {
      tool.fail('--image-opts, -f, and -l require a filename argument.')
    }
    if (filename !== undefined && size !== undefined) {
      tool.fail('--size N cannot be used together with a filename.')
    }
    if (filename === undefined && size === undefined) {
      tool.fail('Either --size N or one filename must be specified.')
    }
    const layer = await tool.layer()
    let source: Backend | undefined
    let result: MeasureResult
    try {
      if (filename !== undefined) {
        source = await openImage(layer, tool.imageSpec(filename, image))
      }
      if (source !== undefined && snapshot !== undefined) {
        await showSnapshot(source.node, snapshot)
      }
      warnOfOptions(tool, layer.findFormat(format)?.createOptions ?? {}, options)
      result = await measureImage(layer, { format, options, source, size })
    } catch (error) {
      tool.report(error)
      const line = measureErrorLine(error, format)
      if (line !== undefined) {
        tool.error(line)
      }
      return 1
    } finally {
      await source?.close()
    }
    print(tool, result, json)
    return 0
  },
}

function print(tool: ImgTool, result: MeasureResult, json: boolean): void {
  if (json) {
    const members: Record<string, number> = {
      required: result.required,
      'fully-allocated': result.fullyAllocated,
      ...(result.bitmaps === undefined ? {} : { bitmaps: result.bitmaps }),
    }
    tool.print(jsonPretty(Object.fromEntries(qdictOrder(Object.keys(members)).map((k) => [k, members[k]]))))
    return
  }
  tool.print(`required size: ${result.required}`)
  tool.print(`fully allocated size: ${result.fullyAllocated}`)
  if (result.bitmaps !== undefined) {
    tool.print(`bitmaps size: ${result.bitmaps}`)
  }
}
