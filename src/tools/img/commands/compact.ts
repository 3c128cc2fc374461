import { jsonPretty } from '../../../bytes/index.js'
import { compactImage } from '../../../image/index.js'
import { ProgressMeter, type ProgressStyle } from '../../progress.js'
import { imageOptions } from '../image-options.js'
import { progressStyle } from '../progress-option.js'
import { flag, type ImageArguments, type ImgCommand, type ImgTool, valued } from '../tool.js'

/** `compact`: rewrites an image so that it occupies as little as it needs. Not in `qemu-img`. */
export const compact: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    let style: ProgressStyle = 'none'
    let quiet = false
    let compress = false
    let json = false
    let image: ImageArguments = {}
    const operands = await tool.readOptions(argv, {
      short: ':hcf:pq',
      long: [valued('object'), flag('image-opts'), valued('output'), valued('progress')],
      option: (parsed) => {
        image = imageOptions(image, parsed)
        const { option, argument } = parsed
        switch (option) {
          case 'c':
            compress = true
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
          case 'output':
            json = tool.isJson(argument)
            break
        }
      },
    })
    const [filename, output] = operands
    if (filename === undefined || operands.length > 2) {
      tool.fail('Expecting one image file name, and perhaps another one for the result')
    }
    const layer = await tool.layer()
    const meter = new ProgressMeter(tool.context, { style: quiet ? 'none' : style, step: 1 })
    try {
      meter.start()
      const result = await compactImage(layer, {
        image: tool.imageSpec(filename, image),
        output,
        compress,
        signal: tool.context.signal,
        progress: meter.update,
      })
      meter.finish()
      if (json) {
        tool.print(jsonPretty({ before: result.before, after: result.after, compacted: result.compacted }))
      } else if (!quiet) {
        tool.print(
          result.compacted
            ? `Image compacted: ${result.before} bytes before, ${result.after} now.`
            : `Image is compact already: ${result.before} bytes.`,
        )
      }
      return 0
    } catch (error) {
      tool.report(error)
      return 1
    } finally {
      meter.end()
    }
  },
}
