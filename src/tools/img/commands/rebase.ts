import { rebaseImage } from '../../../image/index.js'
import { ProgressMeter, type ProgressStyle } from '../../progress.js'
import { imageOptions } from '../image-options.js'
import { progressStyle } from '../progress-option.js'
import { flag, type ImageArguments, type ImgCommand, type ImgTool, valued } from '../tool.js'

/** `rebase`: gives an image another backing file. */
export const rebase: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    let backing: string | undefined
    let backingFormat: string | undefined
    let cache = 'writeback'
    let sourceCache = 'writeback'
    let unsafe = false
    let compress = false
    let quiet = false
    let forceShare = false
    let style: ProgressStyle = 'none'
    let image: ImageArguments = {}
    const operands = await tool.readOptions(argv, {
      short: ':hf:F:b:upt:T:qUc',
      long: [
        valued('object'),
        flag('image-opts'),
        flag('force-share', 'U'),
        flag('compress', 'c'),
        valued('progress'),
      ],
      option: (parsed) => {
        // The image itself is written to: only the new backing file can be shared.
        image = parsed.option === 'U' ? image : imageOptions(image, parsed)
        switch (parsed.option) {
          case 'F':
            backingFormat = parsed.argument
            break
          case 'b':
            backing = parsed.argument
            break
          case 'u':
            unsafe = true
            break
          case 'c':
            compress = true
            break
          case 't':
            cache = parsed.argument
            break
          case 'T':
            sourceCache = parsed.argument
            break
          case 'q':
            quiet = true
            break
          case 'U':
            forceShare = true
            break
          case 'p':
            style = 'people'
            break
          case 'progress':
            style = progressStyle(tool, parsed.argument)
            break
        }
      },
    })
    const [filename] = operands
    if (filename === undefined || operands.length !== 1) {
      tool.usage('Expecting one image file name')
    }
    if (!unsafe && backing === undefined) {
      tool.usage('Must specify backing file (-b) or use unsafe mode (-u)')
    }
    const meter = new ProgressMeter(tool.context, { style: quiet ? 'none' : style, step: 1 })
    meter.start()
    try {
      await rebaseImage(await tool.layer(), tool.imageSpec(filename, image), {
        backing,
        backingFormat,
        unsafe,
        compress,
        cache,
        sourceCache,
        forceShare,
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
    }
  },
}
