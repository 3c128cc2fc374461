import type { ProgressStyle } from '../progress.js'
import type { ImgTool } from './tool.js'

/** The style that `--progress` asks for; ends the program if there is none of that name. */
export function progressStyle(tool: ImgTool, argument: string): ProgressStyle {
  if (argument !== 'json') {
    tool.fail('--progress must be used with json as argument.')
  }
  return 'json'
}
