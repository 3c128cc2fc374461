import { commitImage } from '../../../image/index.js'
import { ProgressMeter, type ProgressStyle } from '../../progress.js'
import { imageOptions } from '../image-options.js'
import { progressStyle } from '../progress-option.js'
import { flag, type ImageArguments, type ImgCommand, type ImgTool, valued } from '../tool.js'

/** `commit`: writes an image into its backing file. */
export const commit: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    let base: string | undefined
    let cache = 'writeback'
    let keep = false
    let quiet = false
    let rateLimit = 0
    let style: ProgressStyle = 'none'
    let image: ImageArguments = {}
    const operands = await tool.readOptions(argv, {
      short: ':f:ht:b:dpqr:',
      long: [valued('object'), flag('image-opts'), valued('progress')],
      option: (parsed) => {
        image = imageOptions(image, parsed)
        switch (parsed.option) {
          case 't':
            cache = parsed.argument
            break
          case 'b':
            base = parsed.argument
            break
          case 'd':
            keep = true
            break
          case 'p':
            style = 'people'
            break
          case 'progress':
            style = progressStyle(tool, parsed.argument)
            break
          case 'q':
            quiet = true
            break
          case 'r':
            rateLimit = tool.size('rate limit', parsed.argument)
            break
        }
      },
    })
    const [filename] = operands
    if (filename === undefined || operands.length !== 1) {
      tool.usage('Expecting one image file name')
    }
    const meter = new ProgressMeter(tool.context, { style: quiet ? 'none' : style, step: 1 })
    try {
      await commitImage(await tool.layer(), tool.imageSpec(filename, image), {
        base,
        cache,
        keep,
        rateLimit,
        signal: tool.context.signal,
        progress: meter.update,
      })
    } catch (error) {
      tool.report(error)
      return 1
    } finally {
      meter.end()
    }
    if (!quiet) {
      tool.print('Image committed.')
    }
    return 0
  },
}
