import type { Client, SFTPWrapper } from 'ssh2'
import { type BlockError, blockError, ioError } from '../../../errors/index.js'
import type { SftpFile } from '../../../host/index.js'

/** What every server takes in one request. */
const pieceBytes = 32 << 10
/** Pieces of one request in flight. */
const maxPieces = 64
/** `SSH_FX_EOF` and `SSH_FX_OP_UNSUPPORTED`. */
const statusEof = 1
const statusUnsupported = 8

type Callback = (error: (Error & { code?: number | string }) | null | undefined) => void

/** Words of libssh for the statuses of the protocol. */
const statusTexts: Readonly<Record<number, string>> = {
  2: 'No such file',
  3: 'Permission denied',
  4: 'Failure',
  5: 'Bad message',
  8: 'Operation not supported by the server',
}

/** A failed request with libssh's words. */
export function sftpError(what: string, error: Error & { code?: number | string }): BlockError {
  const status = typeof error.code === 'number' ? error.code : 4
  const reason = statusTexts[status] ?? error.message
  // libssh tells the server's refusals (1) from failures of its own (2).
  const text = `${what}: SFTP server: ${reason} (libssh error code: 1, sftp error code: ${status})`
  return blockError(status === 2 ? 'ENOENT' : status === 3 ? 'EACCES' : 'EIO', text, { cause: error })
}

interface Facts {
  readonly size: number
  readonly isRegular: boolean
  readonly user: string
}

export class RemoteSftpFile implements SftpFile {
  readonly size: number
  readonly isRegular: boolean
  readonly user: string
  readonly #client: Client
  readonly #sftp: SFTPWrapper
  readonly #handle: Buffer
  /** Ends requests that the connection will not answer any more. */
  readonly #pending = new Set<(error: Error) => void>()
  #broken: Error | undefined
  #closing = false

  constructor(client: Client, sftp: SFTPWrapper, handle: Buffer, { size, isRegular, user }: Facts) {
    this.#client = client
    this.#sftp = sftp
    this.#handle = handle
    this.size = size
    this.isRegular = isRegular
    this.user = user
    client.on('error', (error) => this.#break(error))
    client.on('close', () => this.#break(new Error('Connection closed')))
  }

  #break(error: Error): void {
    if (this.#closing || this.#broken !== undefined) {
      return
    }
    this.#broken = error
    for (const fail of [...this.#pending]) {
      fail(error)
    }
  }

  /** Runs one request of the protocol. */
  #request(send: (callback: Callback) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#broken !== undefined) {
        reject(this.#broken)
        return
      }
      this.#pending.add(reject)
      send((error) => {
        this.#pending.delete(reject)
        if (error) {
          reject(error)
        } else {
          resolve()
        }
      })
    })
  }

  /** Splits a range into what servers take, a bounded number in flight. */
  async #pieces(bytes: number, run: (at: number, bytes: number) => Promise<void>): Promise<void> {
    if (bytes <= pieceBytes) {
      await run(0, bytes)
      return
    }
    let next = 0
    const lane = async (): Promise<void> => {
      while (next < bytes) {
        const at = next
        next += pieceBytes
        await run(at, Math.min(pieceBytes, bytes - at))
      }
    }
    const lanes = Array.from({ length: Math.min(maxPieces, Math.ceil(bytes / pieceBytes)) }, lane)
    const results = await Promise.allSettled(lanes)
    for (const result of results) {
      if (result.status === 'rejected') {
        throw result.reason
      }
    }
  }

  async read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    const target = Buffer.from(buffer.buffer, buffer.byteOffset + bufferOffset, bytes)
    await this.#guarded(() =>
      this.#pieces(bytes, async (at, length) => {
        for (let done = 0; done < length; ) {
          const got = await this.#readOnce(target, at + done, length - done, offset + at + done)
          if (got === 0) {
            target.fill(0, at + done, at + length)
            return
          }
          done += got
        }
      }),
    )
  }

  /** Bytes read; 0 at the end of the file. */
  async #readOnce(target: Buffer, at: number, length: number, position: number): Promise<number> {
    let got = 0
    await this.#request((callback) => {
      this.#sftp.read(this.#handle, target, at, length, position, (error, bytesRead) => {
        const failed = error as (Error & { code?: number }) | undefined
        got = failed?.code === statusEof ? 0 : bytesRead
        callback(failed?.code === statusEof ? undefined : failed)
      })
    })
    return got
  }

  async write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    const source = Buffer.from(buffer.buffer, buffer.byteOffset + bufferOffset, bytes)
    await this.#guarded(() =>
      this.#pieces(bytes, (at, length) =>
        this.#request((callback) => {
          this.#sftp.write(this.#handle, source, at, length, offset + at, callback)
        }),
      ),
    )
  }

  async truncate(size: number): Promise<void> {
    await this.#guarded(() =>
      this.#request((callback) => {
        this.#sftp.fsetstat(this.#handle, { size }, callback)
      }),
    )
  }

  async sync(): Promise<boolean> {
    try {
      await this.#request((callback) => {
        this.#sftp.ext_openssh_fsync(this.#handle, callback)
      })
      return true
    } catch (error) {
      const { code, message } = error as Error & { code?: number }
      if (code === statusUnsupported || message.includes('does not support this extended request')) {
        return false
      }
      throw ioError('EIO')
    }
  }

  /** Failures of requests are I/O errors. */
  async #guarded(run: () => Promise<void>): Promise<void> {
    try {
      await run()
    } catch (error) {
      const code = (error as { code?: unknown }).code
      throw blockError(code === 3 ? 'EACCES' : 'EIO', ioError(code === 3 ? 'EACCES' : 'EIO').message, {
        cause: error,
      })
    }
  }

  async close(): Promise<void> {
    const closed = this.#request((callback) => {
      this.#sftp.close(this.#handle, callback)
    }).catch(() => undefined)
    await closed
    this.#closing = true
    await new Promise<void>((resolve) => {
      if (this.#broken !== undefined) {
        resolve()
        return
      }
      this.#client.once('close', () => resolve())
      this.#client.end()
    })
  }
}
