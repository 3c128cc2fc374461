import { type PathStyle, pathHasProtocol, pathIsAbsolute } from '../../../graph/index.js'

/** How differencing disks write down where their parent is: UTF-16 paths with Windows' separators. */

/** Platform codes: a path relative to the disk's folder, and an absolute one. Both are UTF-16, little-endian. */
export const Platform = { relative: 'W2ru', absolute: 'W2ku' } as const

/** Bytes of the longest path that is read. */
export const maxLocatorBytes = 65534

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

/** A file name of this platform as it is recorded, and for which locator; undefined: no plain file. */
export function pathOfName(
  name: string,
  style: PathStyle,
): { readonly platform: string; readonly path: string } | undefined {
  if (name === '' || pathHasProtocol(name, style)) {
    return undefined
  }
  if (pathIsAbsolute(name, style)) {
    return { platform: Platform.absolute, path: name }
  }
  const path = (style === 'posix' ? name : name.replaceAll('/', '\\')).replace(/^\.[\\/]+/, '')
  return { platform: Platform.relative, path: `.\\${path.replaceAll('/', '\\')}` }
}

/** File name without folders. */
export function lastPart(name: string): string {
  return name.slice(Math.max(name.lastIndexOf('/'), name.lastIndexOf('\\')) + 1)
}
