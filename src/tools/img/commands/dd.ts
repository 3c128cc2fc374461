import { blockError, isBlockError } from '../../../errors/index.js'
import { ddImage } from '../../../image/index.js'
import { ProgressMeter, type ProgressStyle } from '../../progress.js'
import { imageOptions } from '../image-options.js'
import { progressStyle } from '../progress-option.js'
import { flag, type ImageArguments, type ImgCommand, type ImgTool, valued } from '../tool.js'

const maxInt = 2n ** 31n - 1n

interface Operands {
  blockSize?: number
  count?: number
  skip?: number
  input?: string
  output?: string
}

/** `dd`: copies a part of an image into a new one. */
export const dd: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    let format = 'raw'
    let style: ProgressStyle = 'none'
    let image: ImageArguments = {}
    const words = await tool.readOptions(argv, {
      short: ':hf:O:U',
      long: [valued('object'), flag('image-opts'), flag('force-share', 'U'), valued('progress')],
      option: (parsed) => {
        image = imageOptions(image, parsed)
        if (parsed.option === 'O') {
          format = parsed.argument
        } else if (parsed.option === 'progress') {
          style = progressStyle(tool, parsed.argument)
        }
      },
    })
    const operands: Operands = {}
    for (const word of words) {
      operand(tool, word, operands)
    }
    const { blockSize, count, skip, input, output } = operands
    if (input === undefined || output === undefined) {
      tool.fail('Must specify both input and output files')
    }
    const layer = await tool.layer()
    const meter = new ProgressMeter(tool.context, { style, step: 1 })
    try {
      await ddImage(layer, {
        source: tool.imageSpec(input, image),
        target: output,
        format,
        blockSize,
        count,
        skip,
        signal: tool.context.signal,
        progress: meter.update,
        warn: (text) => tool.error(text),
      })
    } catch (error) {
      if (isUnknownFormat(error, format)) {
        // This command does not say which.
        tool.fail('Unknown file format')
      }
      tool.report(error)
      return 1
    } finally {
      meter.end()
    }
    return 0
  },
}

function isUnknownFormat(error: unknown, format: string): boolean {
  return isBlockError(error) && error.message === `Unknown file format '${format}'`
}

function operand(tool: ImgTool, word: string, operands: Operands): void {
  const equals = word.indexOf('=')
  if (equals < 0) {
    unknown(word)
  }
  const name = word.slice(0, equals)
  const value = word.slice(equals + 1)
  switch (name) {
    case 'bs':
      operands.blockSize = tool.size('bs', value, 1n, maxInt)
      break
    case 'count':
      operands.count = tool.size('count', value)
      break
    case 'skip':
      operands.skip = tool.size('skip', value)
      break
    case 'if':
      operands.input = value
      break
    case 'of':
      operands.output = value
      break
    default:
      unknown(name)
  }
}

function unknown(name: string): never {
  throw blockError('EINVAL', `unrecognized operand ${name}`)
}
