import type { Preallocation } from '../../../graph/index.js'
import { openImage, resizeImage, resizeWarning } from '../../../image/index.js'
import { sizeWarning, typeOption } from '../../../options/index.js'
import { imageOptions } from '../image-options.js'
import { flag, type ImageArguments, type ImgCommand, type ImgTool, valued } from '../tool.js'

const preallocations: readonly string[] = ['off', 'metadata', 'falloc', 'full'] satisfies Preallocation[]

/** `resize`: changes an image's size. */
export const resize: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    if (argv.length < 3) {
      tool.usage('Not enough arguments')
    }
    // The size may start with a dash, so it is taken before options are looked for.
    const sizeText = argv.at(-1) ?? ''
    let preallocation: Preallocation = 'off'
    let shrink = false
    let quiet = false
    let image: ImageArguments = {}
    const operands = await tool.readOptions(argv.slice(0, -1), {
      short: ':f:hq',
      long: [valued('object'), flag('image-opts'), valued('preallocation'), flag('shrink')],
      option: (parsed) => {
        image = imageOptions(image, parsed)
        switch (parsed.option) {
          case 'q':
            quiet = true
            break
          case 'preallocation':
            if (!preallocations.includes(parsed.argument)) {
              tool.fail(`Invalid preallocation mode '${parsed.argument}'`)
            }
            preallocation = parsed.argument as Preallocation
            break
          case 'shrink':
            shrink = true
            break
        }
      },
    })
    const [filename] = operands
    if (filename === undefined || operands.length !== 1) {
      tool.usage('Expecting image file name and size')
    }
    const sign = sizeText[0]
    const relative = sign === '+' ? 'grow' : sign === '-' ? 'shrink' : undefined
    const text = relative === undefined ? sizeText : sizeText.slice(1)
    const warning = sizeWarning(text)
    if (warning !== undefined) {
      tool.warn(warning)
    }
    const size = typeOption('size', { type: 'size' }, text) as number
    const layer = await tool.layer()
    const backend = await openImage(layer, tool.imageSpec(filename, image), { write: true, resize: true })
    try {
      await resizeImage(backend, { size, relative, preallocation, shrink })
    } catch (error) {
      tool.report(error)
      const advice = resizeWarning(error)
      if (advice !== undefined) {
        tool.warn(advice)
      }
      return 1
    } finally {
      await backend.close()
    }
    if (!quiet) {
      tool.print('Image resized.')
    }
    return 0
  },
}
