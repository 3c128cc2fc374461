import { type BitmapAction, changeBitmap, type ImageSpec } from '../../../image/index.js'
import { imageOptions } from '../image-options.js'
import { flag, type ImageArguments, type ImgCommand, type ImgTool, valued } from '../tool.js'

/** Granularities are 32 bits wide; QEMU drops the rest. */
const granularityLimit = 2 ** 32

/** `bitmap`: changes the dirty bitmaps stored in an image. */
export const bitmap: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    const actions: BitmapAction[] = []
    let granularity = 0
    let sourceName: string | undefined
    let sourceFormat: string | undefined
    let image: ImageArguments = {}
    const operands = await tool.readOptions(argv, {
      short: ':b:f:F:g:h',
      long: [
        valued('object'),
        flag('image-opts'),
        flag('add'),
        flag('remove'),
        flag('clear'),
        flag('enable'),
        flag('disable'),
        valued('merge'),
      ],
      option: (parsed) => {
        image = imageOptions(image, parsed)
        const { option, argument } = parsed
        switch (option) {
          case 'b':
            sourceName = argument
            break
          case 'F':
            sourceFormat = argument
            break
          case 'g':
            granularity = tool.size('granularity', argument)
            break
          case 'add':
          case 'remove':
          case 'clear':
          case 'enable':
          case 'disable':
            actions.push({ action: option })
            break
          case 'merge':
            actions.push({ action: 'merge', source: argument })
            break
        }
      },
    })
    const has = (wanted: BitmapAction['action']) => actions.some(({ action }) => action === wanted)
    if (actions.length === 0) {
      tool.fail('Need at least one of --add, --remove, --clear, --enable, --disable, or --merge')
    }
    if (granularity !== 0 && !has('add')) {
      tool.fail('granularity only supported with --add')
    }
    if (sourceFormat !== undefined && sourceName === undefined) {
      tool.fail('-F only supported with -b')
    }
    if (sourceName !== undefined && !has('merge')) {
      tool.fail('Merge bitmap source file only supported with --merge')
    }
    const [filename, name] = operands
    if (filename === undefined || name === undefined || operands.length !== 2) {
      tool.fail('Expecting filename and bitmap name')
    }
    const sourceImage: ImageSpec | undefined =
      sourceName === undefined ? undefined : { filename: sourceName, format: sourceFormat }
    await changeBitmap(await tool.layer(), tool.imageSpec(filename, image), {
      name,
      actions,
      granularity: granularity === 0 ? undefined : granularity % granularityLimit,
      sourceImage,
    })
    return 0
  },
}
