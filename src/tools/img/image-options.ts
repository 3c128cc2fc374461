import type { ParsedOption } from '../getopt.js'
import type { ImageArguments } from './tool.js'

/** `image` with what an option says about how it is named and opened; other options change nothing. */
export function imageOptions(image: ImageArguments, { option, argument }: ParsedOption): ImageArguments {
  switch (option) {
    case 'f':
      return { ...image, format: argument }
    case 'image-opts':
      return { ...image, imageOpts: true }
    case 'U':
      return { ...image, forceShare: true }
    default:
      return image
  }
}
