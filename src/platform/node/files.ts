import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import { resolve } from 'node:path'
import { errnoError, ioError } from '../../errors/index.js'
import type { FileOpenOptions, FileStat, HostFile, HostFiles } from '../../host/index.js'
import { fromNode } from './errors.js'
import { type IoPolicy, kindOf, NodeFile } from './file.js'

function attempt<T>(run: () => T): T {
  try {
    return run()
  } catch (error) {
    throw fromNode(error)
  }
}

export class NodeFiles implements HostFiles {
  readonly #policy: IoPolicy

  constructor(policy: IoPolicy) {
    this.#policy = policy
  }

  open(path: string, options: FileOpenOptions = {}): HostFile {
    const c = fs.constants
    let flags = options.write === true ? c.O_RDWR : c.O_RDONLY
    if (options.create === true) {
      flags |= c.O_CREAT | (options.exclusive === true ? c.O_EXCL : 0)
    }
    if (options.truncate === true) {
      flags |= c.O_TRUNC
    }
    if (options.direct === true) {
      // Platforms without O_DIRECT define it as 0 or not at all.
      flags |= c.O_DIRECT ?? 0
    }
    const fd = attempt(() => fs.openSync(path, flags, options.mode ?? 0o644))
    try {
      return new NodeFile(path, fd, options.write ?? false, options.direct ?? false, this.#policy)
    } catch (error) {
      fs.closeSync(fd)
      throw fromNode(error)
    }
  }

  stat(path: string): FileStat | undefined {
    try {
      const stat = fs.statSync(path)
      return {
        kind: kindOf(stat),
        size: stat.size,
        allocated: stat.blocks * 512,
        blockSize: stat.blksize,
        identity: `${stat.dev}:${stat.ino}`,
      }
    } catch (error) {
      const failure = fromNode(error)
      if (failure.code === 'ENOENT' || failure.code === 'ENOTDIR') {
        return undefined
      }
      throw failure
    }
  }

  unlink(path: string): void {
    attempt(() => fs.unlinkSync(path))
  }

  rename(from: string, to: string): void {
    attempt(() => fs.renameSync(from, to))
  }

  realPath(path: string): string | undefined {
    try {
      return fs.realpathSync(path)
    } catch {
      return undefined
    }
  }

  createTemporary(prefix: string): string {
    const folder = process.env.TMPDIR ?? '/var/tmp'
    const template = `${folder}/${prefix}.XXXXXX`
    for (let tries = 0; tries < 100; tries++) {
      const path = `${folder}/${prefix}.${randomName()}`
      try {
        fs.closeSync(
          fs.openSync(path, fs.constants.O_RDWR | fs.constants.O_CREAT | fs.constants.O_EXCL, 0o600),
        )
        return path
      } catch (error) {
        const failure = fromNode(error)
        if (failure.code !== 'EEXIST') {
          throw errnoError(failure.code, `Could not open temporary file '${template}'`, { cause: error })
        }
      }
    }
    throw errnoError('EEXIST', `Could not open temporary file '${template}'`)
  }

  absolute(path: string): string {
    return resolve(path)
  }

  readWhole(path: string, limit: number): Uint8Array {
    return attempt(() => {
      const size = fs.statSync(path).size
      if (size > limit) {
        throw ioError('EFBIG')
      }
      return new Uint8Array(fs.readFileSync(path))
    })
  }
}

function randomName(): string {
  const letters = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'
  return [...randomBytes(6)].map((byte) => letters[byte % letters.length]).join('')
}
