import { type MapExtent, mapImage, openImage } from '../../../image/index.js'
import { imageOptions } from '../image-options.js'
import { flag, type ImageArguments, type ImgCommand, type ImgTool, valued } from '../tool.js'

/** `map`: shows where the contents of an image stand. */
export const map: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    let output: string | undefined
    let start = 0
    let max: number | undefined
    let image: ImageArguments = {}
    const operands = await tool.readOptions(argv, {
      short: ':f:s:l:hU',
      long: [
        valued('format', 'f'),
        valued('output'),
        valued('object'),
        flag('image-opts'),
        flag('force-share', 'U'),
        valued('start-offset', 's'),
        valued('max-length', 'l'),
      ],
      option: (parsed) => {
        image = imageOptions(image, parsed)
        switch (parsed.option) {
          case 'output':
            output = parsed.argument
            break
          case 's':
            start = tool.size('start offset', parsed.argument)
            break
          case 'l':
            max = tool.size('max length', parsed.argument)
            break
        }
      },
    })
    const [filename] = operands
    if (filename === undefined || operands.length !== 1) {
      tool.usage('Expecting one image file name')
    }
    const json = tool.isJson(output)
    const layer = await tool.layer()
    const backend = await openImage(layer, tool.imageSpec(filename, image))
    tool.context.spareMemory?.()
    try {
      const extents = mapImage(backend.node, { start, max, signal: tool.context.signal })
      if (json) {
        await printJson(extents, start, (text) => tool.context.stdout(text))
        return 0
      }
      tool.print('Offset          Length          Mapped to       File')
      for await (const extent of extents) {
        if (extent.data && extent.offset === undefined) {
          tool.fail('File contains external, encrypted or compressed clusters.')
        }
        if (extent.data && !extent.zero) {
          tool.print(humanLine(extent))
        }
      }
      return 0
    } finally {
      await backend.close()
    }
  },
}

/** A number in hexadecimal, in a column of 16. */
function hex(value: number): string {
  return (value === 0 ? '0' : `0x${value.toString(16)}`).padEnd(16)
}

function humanLine(extent: MapExtent): string {
  return hex(extent.start) + hex(extent.length) + hex(extent.offset ?? 0) + (extent.filename ?? '')
}

function jsonEntry(extent: MapExtent): string {
  const place = extent.offset === undefined ? '' : `, "offset": ${extent.offset}`
  return (
    `{ "start": ${extent.start}, "length": ${extent.length}, "depth": ${extent.depth}, ` +
    `"present": ${extent.present}, "zero": ${extent.zero}, "data": ${extent.data}${place}}`
  )
}

async function printJson(
  extents: AsyncIterable<MapExtent>,
  start: number,
  write: (text: string) => void,
): Promise<void> {
  write('[')
  let any = false
  try {
    for await (const extent of extents) {
      write(any ? `,\n${jsonEntry(extent)}` : jsonEntry(extent))
      any = true
    }
  } catch (error) {
    // An extent is shown once it is known that another one follows, which then could not be had.
    if (any) {
      write(',\n')
    }
    throw error
  }
  if (!any) {
    // An empty range is shown as one extent of nothing.
    write(
      jsonEntry({ start, length: 0, depth: 0, present: false, zero: false, data: false, compressed: false }),
    )
  }
  write(']\n')
}
