import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/** How a server treats its clients. */
export interface Manners {
  /** `HEAD` is answered with this status. */
  readonly headStatus?: number
  readonly ranges?: boolean
  /** Says so in `Accept-Ranges`. */
  readonly announcesRanges?: boolean
  readonly announcesLength?: boolean
  readonly etag?: () => string
  /** Credentials and cookie without which the answer is 401. */
  readonly authorization?: string
  readonly cookie?: string
  /** Looks at each request first; true: it has been answered. */
  readonly intercept?: (request: IncomingMessage, response: ServerResponse) => boolean
}

/** A web server with one file, `/disk`; it counts requests. */
export class WebServer implements AsyncDisposable {
  readonly requests: string[] = []
  /** Most requests at a time. */
  busiest = 0
  #busy = 0
  readonly #server: Server

  private constructor(server: Server) {
    this.#server = server
  }

  static async start(contents: Uint8Array, manners: Manners = {}): Promise<WebServer> {
    const server = createServer()
    const web = new WebServer(server)
    server.on('request', (request, response) => {
      web.#busy++
      web.busiest = Math.max(web.busiest, web.#busy)
      response.on('close', () => web.#busy--)
      web.requests.push(`${request.method} ${request.headers.range ?? ''}`.trim())
      answer(request, response, contents, manners)
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    return web
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/disk`
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}

function answer(request: IncomingMessage, response: ServerResponse, contents: Uint8Array, manners: Manners) {
  if (manners.intercept?.(request, response) === true) {
    return
  }
  const { authorization, cookie } = manners
  if (
    (authorization !== undefined && request.headers.authorization !== authorization) ||
    (cookie !== undefined && request.headers.cookie !== cookie)
  ) {
    response.writeHead(401).end()
    return
  }
  if (request.url !== '/disk') {
    response.writeHead(404).end()
    return
  }
  const ranges = manners.ranges ?? true
  const headers: Record<string, string | number> = {}
  if (ranges && manners.announcesRanges !== false) {
    headers['accept-ranges'] = 'bytes'
  }
  const etag = manners.etag?.()
  if (etag !== undefined) {
    headers.etag = etag
    const wanted = request.headers['if-match']
    if (wanted !== undefined && wanted !== etag) {
      response.writeHead(412).end()
      return
    }
  }
  if (request.method === 'HEAD') {
    if (manners.announcesLength !== false) {
      headers['content-length'] = contents.length
    }
    response.writeHead(manners.headStatus ?? 200, headers).end()
    return
  }
  const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '')
  if (!ranges || range === null) {
    if (manners.announcesLength !== false) {
      headers['content-length'] = contents.length
    }
    response.writeHead(200, headers).end(contents)
    return
  }
  const start = Number(range[1])
  const end = Math.min(Number(range[2]), contents.length - 1)
  if (start >= contents.length) {
    response.writeHead(416, { 'content-range': `bytes */${contents.length}` }).end()
    return
  }
  headers['content-range'] = `bytes ${start}-${end}/${contents.length}`
  headers['content-length'] = end + 1 - start
  response.writeHead(206, headers).end(contents.subarray(start, end + 1))
}
