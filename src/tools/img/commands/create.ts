import { createImage, createTarget } from '../../../image/index.js'
import {
  formatOptionHelp,
  hasHelpOption,
  type OptionSchema,
  parseOptionText,
  sizeWarning,
} from '../../../options/index.js'
import { type ImgCommand, type ImgTool, valued } from '../tool.js'

/** `create`: makes a new image. */
export const create: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    let format = 'raw'
    let backingFile: string | undefined
    let backingFormat: string | undefined
    let options: string | undefined
    let quiet = false
    let unsafe = false
    const operands = await tool.readOptions(argv, {
      short: ':F:b:f:ho:qu',
      long: [valued('object')],
      option: ({ option, argument }) => {
        switch (option) {
          case 'F':
            backingFormat = argument
            break
          case 'b':
            backingFile = argument
            break
          case 'f':
            format = argument
            break
          case 'o':
            options = tool.appendOptions(options, argument)
            break
          case 'q':
            quiet = true
            break
          case 'u':
            unsafe = true
            break
        }
      },
    })
    const [filename, sizeText, ...rest] = operands
    if (options !== undefined && hasHelpOption(options)) {
      return await printOptionHelp(tool, format, filename)
    }
    if (filename === undefined) {
      tool.usage('Expecting image file name')
    }
    const size = sizeText === undefined ? undefined : tool.size('image size', sizeText)
    if (rest.length > 0) {
      tool.usage(`Unexpected argument: ${rest[0]}`)
    }
    try {
      const layer = await tool.layer()
      const { schema } = createTarget(layer, format, filename)
      warnOfOptions(tool, schema, options)
      await createImage(layer, {
        filename,
        format,
        backing: { file: backingFile, format: backingFormat, unsafe },
        options,
        size,
        announce: (banner) => {
          if (!quiet) {
            tool.print(banner)
          }
          // The driver reads them again.
          warnOfOptions(tool, schema, options)
        },
      })
    } catch (error) {
      tool.report(error, `${filename}: `)
      return 1
    }
    return 0
  },
}

/** Warnings about values in `-o` text that are read but frowned upon. */
export function warnOfOptions(tool: ImgTool, schema: OptionSchema, options: string | undefined): void {
  for (const [name, value] of parseOptionText(options ?? '')) {
    const spec = Object.hasOwn(schema, name) ? schema[name] : undefined
    if (spec === undefined) {
      // The next thing said is that there is no such option.
      return
    }
    const warning = spec.type === 'size' ? sizeWarning(value) : undefined
    if (warning !== undefined) {
      tool.warn(warning)
    }
  }
}

/** `-o help`: what there is for a format, and if there is a file name, for its protocol. */
export async function printOptionHelp(
  tool: ImgTool,
  format: string,
  filename: string | undefined,
): Promise<number> {
  const layer = await tool.layer()
  const driver = layer.findFormat(format)
  if (driver === undefined) {
    tool.fail(`Unknown file format '${format}'`)
  }
  if (driver.createOptions === undefined) {
    tool.fail(`Format driver '${format}' does not support image creation`)
  }
  let schema: OptionSchema = driver.createOptions
  if (filename !== undefined) {
    try {
      schema = createTarget(layer, format, filename).schema
    } catch (error) {
      tool.report(error)
      return 1
    }
  }
  tool.print(filename === undefined ? `Supported ${format} options:` : 'Supported options:')
  for (const line of formatOptionHelp(schema)) {
    tool.print(line)
  }
  if (filename === undefined) {
    tool.print('')
    tool.print('The protocol level may support further options.')
    tool.print('Specify the target filename to include those options.')
  }
  return 0
}
