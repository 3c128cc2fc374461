import {
  absoluteFilename,
  type OpenContext,
  type PathStyle,
  pathHasProtocol,
  pathIsAbsolute,
} from '../graph/index.js'

/** How VHD and VHDX files write down where their parent is: UTF-16 paths with Windows' separators. */

/** Bytes of the longest path that is read or written. */
export const maxPathBytes = 65534

export function decodeUtf16(bytes: Uint8Array): string {
  const text = new TextDecoder('utf-16le').decode(bytes.subarray(0, bytes.length & ~1))
  const end = text.indexOf('\0')
  return end < 0 ? text : text.slice(0, end)
}

export function encodeUtf16(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length * 2)
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i)
    bytes[i * 2] = unit
    bytes[i * 2 + 1] = unit >>> 8
  }
  return bytes
}

/**
 * A recorded path as a file name of this platform. It is always a path: one that looks like a URL or
 * like `json:` names the file of that name.
 */
export function nameOfPath(path: string, style: PathStyle): string {
  const slashed = style === 'posix' ? path.replaceAll('\\', '/') : path
  const plain = slashed.replace(/^\.[\\/]+/, '')
  return pathHasProtocol(plain, style) ? `./${plain}` : plain
}

/** A path as it is recorded. */
export interface RecordedPath {
  /** It counts from the image's folder. */
  readonly relative: boolean
  readonly path: string
}

/** A file name of this platform as it is recorded; undefined if it is no plain file or too long. */
export function pathOfName(name: string, style: PathStyle): RecordedPath | undefined {
  if (name === '' || pathHasProtocol(name, style) || name.length * 2 > maxPathBytes - 8) {
    return undefined
  }
  if (pathIsAbsolute(name, style)) {
    return { relative: false, path: name }
  }
  const path = name.replaceAll('/', '\\').replace(/^\.\\+/, '')
  return { relative: true, path: `.\\${path}` }
}

/** File name without folders. */
export function lastPart(name: string): string {
  return name.slice(Math.max(name.lastIndexOf('/'), name.lastIndexOf('\\')) + 1)
}

/**
 * Which of `names`, in order of preference, is the parent: the first that is a file, else the first.
 * Undefined for an empty list.
 */
export function existingName(context: OpenContext, names: readonly string[]): string | undefined {
  const { host, node, flags } = context
  const exists = (name: string): boolean => {
    // Asking for a share would already talk to whatever server the image names.
    if (flags.noBacking || /^[\\/]{2}/.test(name)) {
      return false
    }
    try {
      return host.files.stat(absoluteFilename(node, name) ?? name) !== undefined
    } catch {
      return false
    }
  }
  return names.length > 1 ? (names.find(exists) ?? names[0]) : names[0]
}
