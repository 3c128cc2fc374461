import { type BlockError, codeOf, ioError, strerror } from '../../../errors/index.js'
import type { Host } from '../../../host/index.js'
import { Incompatible } from './constants.js'
import type { Qcow2Header } from './header.js'

/** What reporting a corruption needs of the image. */
export interface CorruptImage {
  readonly host: Host
  readonly header: Qcow2Header
  readonly node: { readonly readOnly: boolean; readonly nodeName: string }
  /** Tells listeners of the layer. */
  emit?(data: { msg: string; offset?: number; size?: number; fatal: boolean }): void
  /** Writes the header; used to set the corrupt bit. */
  writeHeader(): Promise<void>
}

/**
 * Tells the user once that the image is corrupt. A corruption met on a writable image also sets the
 * corrupt bit and takes the image out of service, so that nothing makes it worse.
 */
export class CorruptionReport {
  readonly #image: CorruptImage
  #reported = false
  #marking: Promise<void> | undefined = undefined
  /** The image has been taken out of service. */
  fatal = false
  /** Where lines for the user go instead of the host's warnings, while a check collects its messages. */
  divert: ((line: string) => void) | undefined = undefined
  /** Called when that happens. */
  onFatal: (() => void) | undefined = undefined

  constructor(image: CorruptImage) {
    this.#image = image
  }

  /**
   * Reports `message` and returns the error for the request that met it.
   *
   * @param place what was about to be overwritten, bytes
   */
  signal(message: string, mayBeFatal = true, place?: { offset: number; size: number }): BlockError {
    const { header, node } = this.#image
    const fatal = mayBeFatal && !node.readOnly
    const error = ioError('EIO', { node: node.nodeName })
    if (this.#reported && (!fatal || (header.incompatible & Incompatible.corrupt) !== 0)) {
      return error
    }
    this.#reported = true
    this.#image.emit?.({ msg: message, ...place, fatal })
    if (!fatal) {
      this.tell(`qcow2: Image is corrupt: ${message}; further non-fatal corruption events will be suppressed`)
      return error
    }
    this.tell(`qcow2: Marking image as corrupt: ${message}; further corruption events will be suppressed`)
    header.incompatible |= Incompatible.corrupt
    this.fatal = true
    this.#marking = this.#mark()
    this.onFatal?.()
    return error
  }

  /** A line for the user. */
  tell(line: string): void {
    if (this.divert === undefined) {
      this.#image.host.warn(line)
    } else {
      this.divert(line)
    }
  }

  async #mark(): Promise<void> {
    try {
      await this.#image.writeHeader()
    } catch (error) {
      this.#image.host.warn(`qcow2: Could not mark the image as corrupt: ${strerror(codeOf(error))}`)
    }
  }

  /** Waits until the corrupt bit is written, if it is to be. */
  async settled(): Promise<void> {
    await this.#marking
  }
}
