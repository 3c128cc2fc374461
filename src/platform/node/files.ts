import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { resolve } from 'node:path'
import { type ErrnoName, errnoError, ioError } from '../../errors/index.js'
import type { FileOpenOptions, FileStat, FolderEntry, HostFile, HostFiles } from '../../host/index.js'
import type { AioMode } from './aio-backend.js'
import { AioBackends } from './aio-backends.js'
import { fromNode } from './errors.js'
import { type IoPolicy, NodeFile } from './file.js'
import { describe, publishedDeviceSize } from './file-stat.js'
import { libc } from './libc.js'
import { randomBytes } from './random.js'

/** Longest path that the kernel takes, with its terminating zero. Bytes. */
const pathMax = 4096

function attempt<T>(run: () => T): T {
  try {
    return run()
  } catch (error) {
    throw fromNode(error)
  }
}

/** The local file system. Everything but requests on open files is done at once. */
export class NodeFiles implements HostFiles {
  readonly #policy: IoPolicy
  readonly #forced: AioMode | undefined
  readonly #backends: AioBackends

  /** @param forced the backend of every file, whatever is asked for; undefined: no such thing */
  constructor(policy: IoPolicy, forced: AioMode | undefined) {
    const bypass = forced === 'threads' || forced === 'io_uring'
    this.#policy = bypass && policy !== 'sync' ? 'threads' : policy
    this.#forced = forced
    this.#backends = new AioBackends(policy === 'foreground')
  }

  /**
   * Opens for reading or for reading and writing. A directory can be opened for reading.
   * O_DIRECT needs memory at chosen addresses: where these cannot be known, the page cache is used.
   */
  open(path: string, options: FileOpenOptions = {}): HostFile {
    const c = fs.constants
    const writable = options.write ?? false
    const direct = options.direct === true && c.O_DIRECT !== undefined && libc() !== undefined
    let flags = writable ? c.O_RDWR : c.O_RDONLY
    if (options.create === true) {
      flags |= c.O_CREAT | (options.exclusive === true ? c.O_EXCL : 0)
    }
    if (options.truncate === true) {
      flags |= c.O_TRUNC
    }
    if (direct) {
      flags |= c.O_DIRECT
    }
    const fd = attempt(() => fs.openSync(path, flags, options.mode ?? 0o644))
    try {
      const aio = this.#forced ?? options.aio
      return new NodeFile(path, fd, {
        writable,
        direct,
        policy: this.#policy,
        backends: this.#backends,
        aio,
        willSync: options.noSync !== true,
      })
    } catch (error) {
      fs.closeSync(fd)
      throw error
    }
  }

  list(path: string): readonly FolderEntry[] {
    const names = ['.', '..']
    const folder = attempt(() => fs.opendirSync(path))
    try {
      for (let entry = folder.readSync(); entry !== null; entry = folder.readSync()) {
        names.push(entry.name)
      }
    } finally {
      folder.closeSync()
    }
    return names.flatMap((name) => {
      try {
        const stat = fs.statSync(`${path}/${name}`)
        const kind = stat.isDirectory() ? 'directory' : stat.isFile() ? 'regular' : 'other'
        const times = { modified: stat.mtimeMs, changed: stat.ctimeMs, accessed: stat.atimeMs }
        return [{ name, kind, size: stat.size, ...times } satisfies FolderEntry]
      } catch {
        return []
      }
    })
  }

  stat(path: string): FileStat | undefined {
    try {
      const stat = fs.statSync(path, { bigint: true })
      return describe(stat, stat.isBlockDevice() ? publishedDeviceSize(stat) : undefined)
    } catch (error) {
      const failure = fromNode(error)
      if (failure.code === 'ENOENT' || failure.code === 'ENOTDIR') {
        return undefined
      }
      throw failure
    }
  }

  unlink(path: string): void {
    attempt(() => {
      fs.unlinkSync(path)
    })
  }

  copyPermissions(from: string, to: string): void {
    attempt(() => {
      const { mode, uid, gid } = fs.statSync(from)
      try {
        fs.chownSync(to, uid, gid)
      } catch {
        // Only some may give files away.
      }
      fs.chmodSync(to, mode & 0o777)
    })
  }

  makeFolder(path: string): void {
    attempt(() => {
      fs.mkdirSync(path)
    })
  }

  removeFolder(path: string): void {
    attempt(() => {
      fs.rmdirSync(path)
    })
  }

  syncFolder(path: string): void {
    // Windows opens no folders.
    if (process.platform === 'win32') {
      return
    }
    attempt(() => {
      const fd = fs.openSync(path, 'r')
      try {
        fs.fsyncSync(fd)
      } finally {
        fs.closeSync(fd)
      }
    })
  }

  rename(from: string, to: string): void {
    attempt(() => {
      fs.renameSync(from, to)
    })
  }

  /** Also undefined if the path cannot be followed to its end, for example for want of permission. */
  realPath(path: string): string | undefined {
    try {
      return fs.realpathSync.native(path)
    } catch (error) {
      // Only to pass on what is no system error.
      fromNode(error)
      return undefined
    }
  }

  createTemporary(prefix: string): string {
    const folder = process.env.TMPDIR || (process.platform === 'win32' ? tmpdir() : '/var/tmp')
    const template = `${folder}/${prefix}.XXXXXX`
    const failed = (code: ErrnoName, cause?: unknown): Error =>
      errnoError(code, `Could not open temporary file '${template}'`, { cause })
    if (Buffer.byteLength(template) >= pathMax) {
      throw failed('EOVERFLOW')
    }
    const { O_RDWR, O_CREAT, O_EXCL } = fs.constants
    for (let tries = 0; tries < 100; tries++) {
      const path = `${folder}/${prefix}.${randomName()}`
      try {
        fs.closeSync(fs.openSync(path, O_RDWR | O_CREAT | O_EXCL, 0o600))
        return path
      } catch (error) {
        const { code } = fromNode(error)
        if (code !== 'EEXIST') {
          throw failed(code, error)
        }
      }
    }
    throw failed('EEXIST')
  }

  absolute(path: string): string {
    return resolve(path)
  }

  readWhole(path: string, limit: number): Uint8Array {
    const fd = attempt(() => fs.openSync(path, 'r'))
    try {
      // Sizes of files in /proc and /sys say nothing about their contents, so the end is looked for.
      let bytes = new Uint8Array(Math.min(limit + 1, 4096))
      let length = 0
      for (;;) {
        const got = attempt(() => fs.readSync(fd, bytes, length, bytes.length - length, null))
        if (got === 0) {
          return bytes.slice(0, length)
        }
        length += got
        if (length > limit) {
          throw ioError('EFBIG')
        }
        if (length === bytes.length) {
          const larger = new Uint8Array(Math.min(limit + 1, 2 * length))
          larger.set(bytes)
          bytes = larger
        }
      }
    } finally {
      fs.closeSync(fd)
    }
  }
}

/** Six letters and digits, as mkstemp puts in. */
function randomName(): string {
  const letters = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'
  return [...randomBytes(6)].map((byte) => letters[byte % letters.length]).join('')
}
