import { benchImage, openImage } from '../../../image/index.js'
import { parseInteger } from '../../../options/index.js'
import { imageOptions } from '../image-options.js'
import { flag, type ImageArguments, type ImgCommand, type ImgTool, valued } from '../tool.js'

const maxInt = 2n ** 31n - 1n
const aioModes = ['threads', 'native', 'io_uring'] as const
const cacheModes = ['none', 'off', 'directsync', 'writeback', 'unsafe', 'writethrough']

/** `bench`: measures how fast an image is read or written. */
export const bench: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    let count = 75000
    let depth = 64
    let offset = 0
    let bufferSize = 4096
    let step = 0
    let pattern = 0
    let flushInterval = 0
    let cache = 'writeback'
    let write = false
    let noDrain = false
    let aio: (typeof aioModes)[number] | undefined
    let image: ImageArguments = {}
    const number = (text: string, max: bigint, message: string): number => {
      const value = parseInteger(text)
      if (typeof value !== 'bigint' || value < 0n || value > max) {
        tool.fail(message)
      }
      return Number(value)
    }
    const operands = await tool.readOptions(argv, {
      short: ':hc:d:f:ni:o:qs:S:t:wU',
      long: [
        valued('flush-interval'),
        flag('image-opts'),
        valued('pattern'),
        flag('no-drain'),
        flag('force-share', 'U'),
      ],
      option: (parsed) => {
        image = imageOptions(image, parsed)
        const { option, argument } = parsed
        switch (option) {
          case 'c':
            count = number(argument, maxInt, 'Invalid request count specified')
            break
          case 'd':
            depth = number(argument, maxInt, 'Invalid queue depth specified')
            break
          case 'i':
            aio = aioModes.find((mode) => mode === argument) ?? tool.fail(`Invalid aio option: ${argument}`)
            break
          case 'n':
            aio = 'native'
            break
          case 'o':
            offset = tool.size('offset', argument)
            break
          case 's':
            bufferSize = tool.size('buffer size', argument, 0n, maxInt)
            break
          case 'S':
            step = tool.size('step_size', argument, 0n, maxInt)
            break
          case 't':
            if (!cacheModes.includes(argument)) {
              tool.fail('Invalid cache mode')
            }
            cache = argument
            break
          case 'w':
            write = true
            break
          case 'pattern':
            pattern = number(argument, 0xffn, 'Invalid pattern byte specified')
            break
          case 'flush-interval':
            flushInterval = number(argument, maxInt, 'Invalid flush interval specified')
            break
          case 'no-drain':
            noDrain = true
            break
        }
      },
    })
    const [filename] = operands
    if (filename === undefined || operands.length !== 1) {
      tool.usage('Expecting one image file name')
    }
    if (!write && flushInterval > 0) {
      tool.fail('--flush-interval is only available in write tests')
    }
    if (flushInterval > 0 && flushInterval < depth) {
      tool.fail("Flush interval can't be smaller than depth")
    }
    const layer = await tool.layer()
    const backend = await openImage(layer, tool.imageSpec(filename, image), { write, cache, aio })
    try {
      const kind = write ? 'write' : 'read'
      tool.print(
        `Sending ${count} ${kind} requests, ${bufferSize} bytes each, ${depth} in parallel ` +
          `(starting at offset ${offset}, step size ${step === 0 ? bufferSize : step})`,
      )
      if (flushInterval > 0) {
        tool.print(`Sending flush every ${flushInterval} requests`)
      }
      const { seconds } = await benchImage(backend, {
        count,
        depth,
        bufferSize,
        step: step === 0 ? bufferSize : step,
        offset,
        write,
        pattern,
        flushInterval,
        noDrain,
        signal: tool.context.signal,
      })
      tool.print(`Run completed in ${seconds.toFixed(3)} seconds.`)
    } finally {
      await backend.close()
    }
    return 0
  },
}
