import { jsonPretty } from '../../../bytes/index.js'
import { codeOf } from '../../../errors/index.js'
import type { CheckFix } from '../../../graph/index.js'
import { type CheckImageResult, checkImage, checkReport, openImage } from '../../../image/index.js'
import { imageOptions } from '../image-options.js'
import { flag, type ImageArguments, type ImgCommand, type ImgTool, valued } from '../tool.js'

const noChecks = 'This image format does not support checks'

/** `check`: looks for inconsistencies and repairs them if asked to. */
export const check: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    let output: string | undefined
    let fix: CheckFix | undefined
    let cache = 'writeback'
    let quiet = false
    let image: ImageArguments = {}
    const operands = await tool.readOptions(argv, {
      short: ':hf:r:T:qU',
      long: [
        valued('format', 'f'),
        valued('repair', 'r'),
        valued('output'),
        valued('object'),
        flag('image-opts'),
        flag('force-share', 'U'),
      ],
      option: (parsed) => {
        image = imageOptions(image, parsed)
        const { option, argument } = parsed
        switch (option) {
          case 'r':
            if (argument !== 'leaks' && argument !== 'all') {
              tool.usage(`Unknown option value for -r (expecting 'leaks' or 'all'): ${argument}`)
            }
            fix = { leaks: true, errors: argument === 'all' }
            break
          case 'output':
            output = argument
            break
          case 'T':
            cache = argument
            break
          case 'q':
            quiet = true
            break
        }
      },
    })
    const [filename] = operands
    if (filename === undefined || operands.length !== 1) {
      tool.usage('Expecting one image file name')
    }
    const json = tool.isJson(output)
    const print = (line: string) => {
      if (!quiet) {
        tool.print(line)
      }
    }
    const layer = await tool.layer()
    const flags = { check: true, write: fix !== undefined, cache, cacheOf: 'source' } as const
    const backend = await openImage(layer, tool.imageSpec(filename, image), flags)
    tool.context.spareMemory?.()
    let result: CheckImageResult
    try {
      result = await checkImage(backend, {
        fix,
        label: filename,
        signal: tool.context.signal,
        message: (line, report) => (report ? tool.error(line) : tool.context.stderr(`${line}\n`)),
        onRepaired: (leaks, corruptions) => {
          if (!json) {
            print('The following inconsistencies were found and repaired:')
            print(`\n    ${leaks} leaked clusters\n    ${corruptions} corruptions\n`)
            print('Double checking the fixed image now...')
          }
        },
      })
    } catch (error) {
      if (codeOf(error) === 'ENOTSUP') {
        tool.report(error)
        return error instanceof Error && error.message === noChecks ? 63 : 1
      }
      if (!tool.context.signal.aborted) {
        tool.error(`Check failed: ${tool.errnoText(error)}`)
      }
      return 1
    } finally {
      await backend.close()
    }
    print(json ? jsonPretty(result.check) : checkReport(result.check).join('\n'))
    if (result.check['check-errors'] > 0) {
      tool.error('Check failed')
      return 1
    }
    return result.exitCode
  },
}
