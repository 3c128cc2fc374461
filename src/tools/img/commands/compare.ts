import type { Backend } from '../../../graph/index.js'
import {
  compareErrorCode,
  compareImages,
  compareMessage,
  openImage,
  sizeMismatchWarning,
} from '../../../image/index.js'
import { ProgressMeter, type ProgressStyle } from '../../progress.js'
import { imageOptions } from '../image-options.js'
import { progressStyle } from '../progress-option.js'
import { flag, type ImageArguments, type ImgCommand, type ImgTool, valued } from '../tool.js'

/** Exit code for what goes wrong before anything is compared. */
const cannotCompare = 2

/** `compare`: exit code 0 for equal contents, 1 for different ones, more for errors. */
export const compare: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    let secondFormat: string | undefined
    let cache = 'writeback'
    let style: ProgressStyle = 'none'
    let quiet = false
    let strict = false
    let image: ImageArguments = {}
    const operands = await tool.readOptions(argv, {
      short: ':hf:F:T:pqsU',
      long: [valued('object'), flag('image-opts'), flag('force-share', 'U'), valued('progress')],
      objectFailure: cannotCompare,
      option: (parsed) => {
        image = imageOptions(image, parsed)
        switch (parsed.option) {
          case 'F':
            secondFormat = parsed.argument
            break
          case 'T':
            cache = parsed.argument
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
          case 's':
            strict = true
            break
        }
      },
    })
    const [firstName, secondName] = operands
    if (firstName === undefined || secondName === undefined || operands.length !== 2) {
      tool.usage('Expecting two image file names')
    }
    const print = (line: string) => {
      if (!quiet) {
        tool.print(line)
      }
    }
    const layer = await tool.layer()
    const open = (name: string, arguments_: ImageArguments) =>
      openImage(layer, tool.imageSpec(name, arguments_), { cache, cacheOf: 'source' })
    const meter = new ProgressMeter(tool.context, { style: quiet ? 'none' : style, step: 2 })
    const images: Backend[] = []
    try {
      const first = await open(firstName, image)
      images.push(first)
      const second = await open(secondName, { ...image, format: secondFormat })
      images.push(second)
      meter.start()
      const result = await compareImages(first, second, {
        strict,
        labels: [firstName, secondName],
        signal: tool.context.signal,
        progress: meter.update,
        onSizeMismatch: () => {
          meter.update(Math.min(first.length, second.length), Math.max(first.length, second.length))
          print(sizeMismatchWarning)
        },
      })
      print(compareMessage(result))
      return result.identical ? 0 : 1
    } catch (error) {
      tool.report(error)
      return images.length < 2 ? cannotCompare : compareErrorCode(error)
    } finally {
      for (const backend of images) {
        await backend.close()
      }
      meter.end()
    }
  },
}
