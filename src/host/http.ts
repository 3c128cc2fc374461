/** How a client speaks to its servers. */
export interface HttpClientOptions {
  /** Connections kept to each server. */
  readonly connections: number
  /** Milliseconds without any progress after which a request fails; 0: never. */
  readonly timeout: number
  /** Whether a server has to prove who it is. */
  readonly verifyTls: boolean
  /** Value of `Proxy-Authorization`, for the proxy that the environment names. */
  readonly proxyAuthorization?: string | undefined
}

export interface HttpRequest {
  readonly method: 'GET' | 'HEAD'
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly signal: AbortSignal
}

/** An answer whose body has not been read yet. Either {@link body} is read to its end, or {@link cancel} is called. */
export interface HttpResponse {
  readonly status: number
  /** Value of a header; `name` in lower case. */
  header(name: string): string | undefined
  /** Pieces of the body; they belong to the reader. Fails with a BlockError when the connection does. */
  readonly body: AsyncIterable<Uint8Array>
  /** Drops what is left of the body. */
  cancel(): void
}

/** A pool of connections. Redirections are the user's business. */
export interface HttpClient {
  /**
   * Sends a request and waits for the head of the answer.
   *
   * @throws BlockError with curl's wording: ENOENT for an unknown host, ECONNREFUSED, ETIMEDOUT, EPERM for a
   * certificate that is not accepted, EIO for the rest
   */
  request(request: HttpRequest): Promise<HttpResponse>
  close(): Promise<void>
}

/** HTTP of the platform. */
export interface HostHttp {
  client(options: HttpClientOptions): Promise<HttpClient>
}
