import { amendImage, amendSchema, openImage } from '../../../image/index.js'
import { formatOptionHelp, hasHelpOption } from '../../../options/index.js'
import { ProgressMeter, type ProgressStyle } from '../../progress.js'
import { imageOptions } from '../image-options.js'
import { progressStyle } from '../progress-option.js'
import { flag, type ImageArguments, type ImgCommand, type ImgTool, valued } from '../tool.js'
import { warnOfOptions } from './create.js'

/** `amend`: changes properties of an image in place. */
export const amend: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    let options: string | undefined
    let cache = 'writeback'
    let style: ProgressStyle = 'none'
    let quiet = false
    let force = false
    let image: ImageArguments = {}
    const operands = await tool.readOptions(argv, {
      short: ':ho:f:t:pq',
      long: [valued('object'), flag('image-opts'), flag('force'), valued('progress')],
      option: (parsed) => {
        image = imageOptions(image, parsed)
        const { option, argument } = parsed
        switch (option) {
          case 'o':
            options = tool.appendOptions(options, argument)
            break
          case 't':
            cache = argument
            break
          case 'p':
            style = 'people'
            break
          case 'progress':
            style = progressStyle(tool, argument)
            break
          case 'q':
            quiet = true
            break
          case 'force':
            force = true
            break
        }
      },
    })
    if (options === undefined) {
      tool.usage('Must specify options (-o)')
    }
    if (image.format !== undefined && hasHelpOption(options)) {
      return await printHelp(tool, image.format)
    }
    const [filename] = operands
    if (filename === undefined || operands.length !== 1) {
      tool.fail('Expecting one image file name')
    }
    const layer = await tool.layer()
    const flags = { write: true, resize: true, cache, cacheOf: 'target' } as const
    const backend = await openImage(layer, tool.imageSpec(filename, image), flags)
    const meter = new ProgressMeter(tool.context, { style: quiet ? 'none' : style, step: 1, restarts: true })
    try {
      const format = backend.node.driver?.name ?? ''
      if (hasHelpOption(options)) {
        return await printHelp(tool, format)
      }
      const schema = amendSchema(layer, format)
      warnOfOptions(tool, schema, options)
      meter.start()
      await amendImage(backend, {
        options,
        force,
        signal: tool.context.signal,
        progress: meter.update,
      })
      meter.finish()
      return 0
    } catch (error) {
      tool.report(error)
      return 1
    } finally {
      meter.end()
      await backend.close()
    }
  },
}

async function printHelp(tool: ImgTool, format: string): Promise<number> {
  const schema = amendSchema(await tool.layer(), format)
  tool.print(`Amend options for '${format}':`)
  for (const line of formatOptionHelp(schema)) {
    tool.print(line)
  }
  return 0
}
