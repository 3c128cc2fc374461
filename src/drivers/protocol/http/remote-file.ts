import { blockError, isBlockError, prefixed } from '../../../errors/index.js'
import type { HttpClient, HttpResponse } from '../../../host/index.js'
import type { Clock } from '../../../sched/index.js'

/** What a server that does not answer ranges may send whole. Bytes. */
const maxWholeBytes = 64 << 20
const maxRedirections = 20
/** Attempts of a request that makes no progress. */
const maxAttempts = 4
/** Nanoseconds before the second attempt; each further one waits four times as long. */
const firstPause = 1e8

/** Answers that another attempt may better. */
const passing = new Set([408, 429, 500, 502, 503, 504])
/** Answers after which the place that a redirection led to is asked for anew: signed links expire. */
const expired = new Set([401, 403, 404, 410])

export interface RemoteFileOptions {
  readonly client: HttpClient
  readonly clock: Clock
  /** Sent with each request to the server that was named. */
  readonly headers: Readonly<Record<string, string>>
}

function rangeUnsupported(): Error {
  return blockError('EINVAL', "Server does not support 'range' (byte ranges).")
}

function statusError(status: number): Error {
  return blockError('EIO', `The requested URL returned error: ${status}`)
}

/** Total of `Content-Range: bytes 0-99/1000` (or `bytes 0-99/*`: undefined), and where the body starts. */
function parseContentRange(
  value: string | undefined,
): { start: number; total: number | undefined } | undefined {
  const match = /^bytes (?:(\d{1,16})-\d{1,16}|\*)\/(\d{1,16}|\*)$/.exec(value?.trim() ?? '')
  if (match === null) {
    return undefined
  }
  const [, start = '0', total] = match
  return { start: Number(start), total: total === '*' ? undefined : Number(total) }
}

function contentLength(response: HttpResponse): number | undefined {
  const text = response.header('content-length') ?? ''
  return /^\d{1,16}$/.test(text) ? Number(text) : undefined
}

/**
 * A file on a web server: follows redirections, goes on where a connection broke, and tells when the file
 * became another one meanwhile.
 */
export class RemoteFile {
  readonly #named: string
  readonly #options: RemoteFileOptions
  readonly #aborter = new AbortController()
  /** Where redirections led to. */
  #url: string
  #length = 0
  /** Strong validator of the contents, if the server gives one. */
  #etag: string | undefined
  /** The whole file, from a server without ranges. */
  #whole: Uint8Array | undefined

  private constructor(url: string, options: RemoteFileOptions) {
    this.#named = url
    this.#url = url
    this.#options = options
  }

  /**
   * Asks for the length of the file.
   *
   * @throws BlockError `CURL: Error opening file: …`
   */
  static async open(url: string, options: RemoteFileOptions): Promise<RemoteFile> {
    const file = new RemoteFile(url, options)
    try {
      await file.#inquire()
      return file
    } catch (error) {
      file.close()
      throw prefixed(error, 'CURL: Error opening file: ')
    }
  }

  /** Bytes. */
  get length(): number {
    return this.#length
  }

  /** Ends what is in flight. The client is the caller's. */
  close(): void {
    this.#aborter.abort()
  }

  /** Learns length and abilities by HEAD, and by the first byte where that does not tell. */
  async #inquire(): Promise<void> {
    const head = await this.#follow('HEAD', {})
    head.cancel()
    const length = contentLength(head)
    if (
      head.status < 400 &&
      length !== undefined &&
      head.header('accept-ranges')?.toLowerCase() === 'bytes'
    ) {
      this.#take(head, length)
      return
    }
    const response = await this.#follow('GET', { range: 'bytes=0-0' })
    const range = parseContentRange(response.header('content-range'))
    if (response.status === 206 || response.status === 416) {
      response.cancel()
      if (range?.total === undefined) {
        throw blockError('EINVAL', "Server didn't report file size.")
      }
      this.#take(response, range.total)
      return
    }
    if (response.status !== 200) {
      response.cancel()
      throw statusError(response.status)
    }
    await this.#takeWhole(response)
  }

  #take(response: HttpResponse, length: number): void {
    if (!Number.isSafeInteger(length)) {
      throw blockError('EFBIG', 'File is too large')
    }
    this.#length = length
    const etag = response.header('etag')
    this.#etag = etag === undefined || etag.startsWith('W/') ? undefined : etag
  }

  async #takeWhole(response: HttpResponse): Promise<void> {
    const length = contentLength(response)
    if (length === undefined || length > maxWholeBytes) {
      response.cancel()
      throw rangeUnsupported()
    }
    const whole = new Uint8Array(length)
    let filled = 0
    for await (const piece of response.body) {
      if (piece.length > length - filled) {
        throw blockError('EIO', 'Server sent more than it announced')
      }
      whole.set(piece, filled)
      filled += piece.length
    }
    if (filled < length) {
      throw blockError('EIO', 'Server sent less than it announced')
    }
    this.#whole = whole
    this.#length = length
  }

  /** Sends a request, to where redirections lead. Credentials stay with the server that was named. */
  async #follow(method: 'GET' | 'HEAD', headers: Record<string, string>): Promise<HttpResponse> {
    const { client } = this.#options
    const home = new URL(this.#named).origin
    for (let i = 0; i <= maxRedirections; i++) {
      const own = new URL(this.#url).origin === home ? this.#options.headers : {}
      const response = await client.request({
        method,
        url: this.#url,
        headers: { ...own, accept: '*/*', 'accept-encoding': 'identity', ...headers },
        signal: this.#aborter.signal,
      })
      const location = response.header('location')
      if (![301, 302, 303, 307, 308].includes(response.status) || location === undefined) {
        return response
      }
      response.cancel()
      if (!URL.canParse(location, this.#url)) {
        throw blockError('EIO', `Server redirects to '${location}', which is no URL`)
      }
      const next = new URL(location, this.#url)
      if (next.protocol !== 'http:' && next.protocol !== 'https:') {
        throw blockError(
          'EINVAL',
          `Protocol "${next.protocol.slice(0, -1)}" not supported or disabled in libcurl`,
        )
      }
      this.#url = next.href
    }
    throw blockError('EIO', `Maximum (${maxRedirections}) redirects followed`)
  }

  /**
   * Reads `bytes` bytes from `offset`, inside the file, and hands them to `take` in order, in pieces.
   *
   * @throws BlockError EIO when the server keeps failing or the file has changed
   */
  async fetch(offset: number, bytes: number, take: (piece: Uint8Array) => void): Promise<void> {
    if (this.#whole !== undefined) {
      take(this.#whole.subarray(offset, offset + bytes))
      return
    }
    let done = 0
    for (let attempt = 1; ; attempt++) {
      const before = done
      try {
        await this.#attempt(offset + done, bytes - done, (piece) => {
          done += piece.length
          take(piece)
        })
        return
      } catch (error) {
        attempt = done > before ? 0 : attempt
        if (!(error instanceof Passing) || attempt >= maxAttempts) {
          throw error instanceof Passing ? error.reason : error
        }
      }
      await this.#pause(firstPause * 4 ** Math.max(attempt - 1, 0))
    }
  }

  async #attempt(offset: number, bytes: number, take: (piece: Uint8Array) => void): Promise<void> {
    let response: HttpResponse
    try {
      response = await this.#follow('GET', {
        range: `bytes=${offset}-${offset + bytes - 1}`,
        ...(this.#etag === undefined ? {} : { 'if-match': this.#etag }),
      })
    } catch (error) {
      throw this.#passing(error)
    }
    const range = parseContentRange(response.header('content-range'))
    if (response.status !== 206 || range === undefined || range.start !== offset) {
      response.cancel()
      throw this.#unexpected(response.status)
    }
    if (range.total !== undefined && range.total !== this.#length) {
      response.cancel()
      throw blockError('EIO', 'File has changed on the server')
    }
    let left = bytes
    try {
      for await (const piece of response.body) {
        const part = piece.length > left ? piece.subarray(0, left) : piece
        left -= part.length
        take(part)
        if (left === 0 && part.length < piece.length) {
          break
        }
      }
    } catch (error) {
      throw this.#passing(error)
    }
    if (left > 0) {
      throw new Passing(blockError('EIO', 'Server sent less than it announced'))
    }
  }

  /** What a status other than that of a range means. */
  #unexpected(status: number): Error {
    if (status === 412) {
      return blockError('EIO', 'File has changed on the server')
    }
    if (status === 200) {
      return rangeUnsupported()
    }
    if (expired.has(status) && this.#url !== this.#named) {
      this.#url = this.#named
      return new Passing(statusError(status))
    }
    return passing.has(status) ? new Passing(statusError(status)) : statusError(status)
  }

  /** Failures of the connection are worth another attempt, unless the file is being closed. */
  #passing(error: unknown): unknown {
    return isBlockError(error) && error.code !== 'EPERM' && !this.#aborter.signal.aborted
      ? new Passing(error)
      : error
  }

  async #pause(nanoseconds: number): Promise<void> {
    const { signal } = this.#aborter
    await new Promise<void>((resolve) => {
      const over = (): void => {
        signal.removeEventListener('abort', over)
        callOff()
        resolve()
      }
      const callOff = this.#options.clock.after(nanoseconds, over)
      signal.addEventListener('abort', over)
    })
  }
}

/** A failure that another attempt may better. */
class Passing extends Error {
  readonly reason: Error

  constructor(reason: Error) {
    super(reason.message)
    this.reason = reason
  }
}
