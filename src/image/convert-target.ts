import { BlockError, errnoError, isBlockError } from '../errors/index.js'
import { type BlockDriver, type BlockLayer, localPath, pathCombine, pathHasProtocol } from '../graph/index.js'

/** Longest file name most file systems take, bytes. */
const maxNameBytes = 255

/**
 * The place of a new image while it is being made.
 *
 * A plain file that does not exist yet is made under a temporary name in the same folder and gets its
 * own name when it is complete, so that nobody ever sees half of it, even if the process is killed.
 * Relative names in the image mean the same there. Everything else (devices, other protocols, files
 * that exist, images that contain their own name) is written in place: replacing an existing file would
 * lose its permissions, its other names and the locks of those who use it.
 */
export class NewImagePlace {
  /** The name to create and open. */
  readonly workName: string
  readonly #layer: BlockLayer
  readonly #finalName: string
  /** Paths on the host, if the image is made under another name. */
  readonly #paths: { readonly work: string; readonly final: string } | undefined
  /** The path to remove if the image does not come to be. */
  readonly #removable: string | undefined
  #further: readonly string[] = []

  constructor(layer: BlockLayer, driver: BlockDriver, filename: string) {
    this.#layer = layer
    this.#finalName = filename
    const path = localPath(layer, filename)
    const fresh = path !== undefined && isFree(layer, path)
    const work = fresh && driver.namesItself !== true ? temporaryName(layer, path) : undefined
    this.workName = work ?? filename
    this.#paths = path !== undefined && work !== undefined ? { work, final: path } : undefined
    this.#removable = work ?? (fresh ? path : undefined)
  }

  /** Whether making the image destroys something. */
  get overwrites(): boolean {
    return this.#removable === undefined
  }

  /** Names of further files that belong to the image and did not exist before. */
  hasMade(files: readonly string[]): void {
    this.#further = files
  }

  /** The image is complete and closed: gives it its name. */
  commit(): void {
    const paths = this.#paths
    if (paths === undefined) {
      return
    }
    const files = this.#layer.host.files
    if (!isFree(this.#layer, paths.final)) {
      // Somebody else made a file of this name meanwhile; it is not ours to destroy.
      throw errnoError('EEXIST', `Could not create '${this.#finalName}'`)
    }
    files.rename(paths.work, paths.final)
  }

  /** The image will not come to be: removes what there is of it, unless it existed before. */
  rollback(): void {
    const files = this.#layer.host.files
    const further = this.#further.map((name) => localPath(this.#layer, name))
    for (const path of [this.#removable, ...further]) {
      if (path !== undefined && files.stat(path)?.kind === 'regular') {
        files.unlink(path)
      }
    }
  }

  /** An error with the image's own name in its text. */
  named(error: unknown): unknown {
    if (this.#paths === undefined || !isBlockError(error) || !error.message.includes(this.workName)) {
      return error
    }
    const message = error.message.replaceAll(this.workName, this.#finalName)
    return new BlockError(error.code, message, { hint: error.hint, at: error.at, cause: error.cause })
  }
}

/** Whether nothing has this name. */
function isFree(layer: BlockLayer, path: string): boolean {
  const files = layer.host.files
  if (files.stat(path) !== undefined) {
    return false
  }
  try {
    // A link that leads nowhere is something too: it can be renamed to itself.
    files.rename(path, path)
    return false
  } catch (error) {
    if (isBlockError(error)) {
      return true
    }
    throw error
  }
}

/** A free name beside `path`; undefined if the file system may not take it. */
function temporaryName(layer: BlockLayer, path: string): string | undefined {
  const style = layer.host.pathStyle
  const folder = pathCombine(path, '', style)
  const name = path.slice(folder.length)
  const tag = [...layer.host.randomBytes(6)].map((byte) => byte.toString(16).padStart(2, '0')).join('')
  const work = `.${name}.${tag}.part`
  if (name === '' || new TextEncoder().encode(work).length > maxNameBytes) {
    return undefined
  }
  const full = folder + work
  // The name must mean the same plain path when it is parsed again.
  return pathHasProtocol(full, style) ? `./${full}` : full
}
