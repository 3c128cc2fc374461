import { blockError } from '../errors/index.js'

/** Rules for file names: separators and drive letters differ on win32 (seed L94-163). */
export type PathStyle = 'posix' | 'win32'

function hasDrivePrefix(path: string): boolean {
  return /^[A-Za-z]:/.test(path)
}

/** True for exactly `x:` and for `\\.\…` and `//./…`. */
export function isWindowsDrive(path: string): boolean {
  return (hasDrivePrefix(path) && path.length === 2) || path.startsWith('\\\\.\\') || path.startsWith('//./')
}

/** Whether `path` starts with `protocol:` — the first of colon and separator is a colon (seed row 7). */
export function pathHasProtocol(path: string, style: PathStyle = 'posix'): boolean {
  if (style === 'win32' && (isWindowsDrive(path) || hasDrivePrefix(path))) {
    return false
  }
  const at = path.search(style === 'win32' ? /[:/\\]/ : /[:/]/)
  return at >= 0 && path[at] === ':'
}

/** Seed row 8. */
export function pathIsAbsolute(path: string, style: PathStyle = 'posix'): boolean {
  if (style === 'win32' && (isWindowsDrive(path) || hasDrivePrefix(path))) {
    return true
  }
  return path.startsWith('/') || (style === 'win32' && path.startsWith('\\'))
}

/** `filename` seen from the folder of `base`, which may be a URL (seed row 9, with today's rule for colons). */
export function pathCombine(base: string, filename: string, style: PathStyle = 'posix'): string {
  if (pathIsAbsolute(filename, style)) {
    return filename
  }
  const afterProtocol = pathHasProtocol(base, style) ? base.indexOf(':') + 1 : 0
  let afterSlash = base.lastIndexOf('/') + 1
  if (style === 'win32') {
    afterSlash = Math.max(afterSlash, base.lastIndexOf('\\') + 1)
  }
  return base.slice(0, Math.max(afterProtocol, afterSlash)) + filename
}

/** Full name of the backing file `backing` of the image named `backed` (seed row 10). Empty: none. */
export function fullBackingFilename(backed: string, backing: string, style: PathStyle = 'posix'): string {
  if (backing === '' || pathHasProtocol(backing, style) || pathIsAbsolute(backing, style)) {
    return backing
  }
  if (backed === '' || backed.startsWith('json:')) {
    throw blockError('EINVAL', `Cannot use relative backing file names for '${backed}'`)
  }
  return pathCombine(backed, backing, style)
}
